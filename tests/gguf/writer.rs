//! A small writer of GGUF files, after the description of the format.

/// A value with its type.
#[derive(Clone)]
pub struct Encoded {
    code: u32,
    bytes: Vec<u8>,
}

/// A tensor with the code of its type; rows first.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub code: u32,
    pub bytes: Vec<u8>,
}

/// What goes into a file.
#[derive(Clone)]
pub struct Writer {
    pub version: u32,
    pub alignment: usize,
    pub values: Vec<(String, Encoded)>,
    pub tensors: Vec<Tensor>,
}

pub fn u32(number: u32) -> Encoded {
    Encoded { code: 4, bytes: number.to_le_bytes().to_vec() }
}

pub fn i32(number: i32) -> Encoded {
    Encoded { code: 5, bytes: number.to_le_bytes().to_vec() }
}

pub fn u64(number: u64) -> Encoded {
    Encoded { code: 10, bytes: number.to_le_bytes().to_vec() }
}

pub fn f32(number: f32) -> Encoded {
    Encoded { code: 6, bytes: number.to_le_bytes().to_vec() }
}

/// One byte, whether or not it is true or false.
pub fn bool(byte: u8) -> Encoded {
    Encoded { code: 7, bytes: vec![byte] }
}

pub fn text(text: &str) -> Encoded {
    Encoded { code: 8, bytes: counted(text.as_bytes()) }
}

/// A list of what is of one type, with the code of that where there is nothing in it.
pub fn list(code: u32, items: &[Encoded]) -> Encoded {
    let mut bytes = code.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| bytes.extend(&item.bytes));
    Encoded { code: 9, bytes }
}

pub fn texts(items: &[&str]) -> Encoded {
    list(8, &items.iter().map(|item| text(item)).collect::<Vec<_>>())
}

/// Something of this type.
pub fn raw(code: u32, bytes: &[u8]) -> Encoded {
    Encoded { code, bytes: bytes.to_vec() }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut counted = (bytes.len() as u64).to_le_bytes().to_vec();
    counted.extend(bytes);
    counted
}

impl Tensor {
    pub fn f32(name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), code: 0, bytes }
    }
}

impl Writer {
    pub fn new(values: Vec<(String, Encoded)>, tensors: Vec<Tensor>) -> Self {
        Self { version: 3, alignment: 32, values, tensors }
    }

    /// Puts a value in, in the place of one that is there, or takes it out.
    pub fn set(&mut self, name: &str, value: Option<Encoded>) {
        self.values.retain(|(found, _)| found != name);
        self.values.extend(value.map(|value| (name.to_owned(), value)));
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(|_, offset| offset)
    }

    /// The file, with what is to stand in the place of each tensor's offset.
    pub fn bytes_with(&self, offset: impl Fn(&str, u64) -> u64) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.values.len() as u64).to_le_bytes());
        for (name, Encoded { code, bytes }) in &self.values {
            file.extend(counted(name.as_bytes()));
            file.extend(code.to_le_bytes());
            file.extend(bytes);
        }
        let mut data = Vec::new();
        for Tensor { name, shape, code, bytes } in &self.tensors {
            file.extend(counted(name.as_bytes()));
            file.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(code.to_le_bytes());
            file.extend(offset(name, data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(data);
        file
    }
}
