//! Tensors of all kinds of files, some of whose numbers are read at a time.

use evenkeel::hugging_face::{SafetensorsFile, StoredTensor};
use evenkeel::{Precision, Result, gguf};
use safetensors::Dtype;
use serde::Serialize;

use super::Statistics;

/// Numbers that are looked at at once.
const PIECE: usize = 1 << 20;

/// A tensor in one of the files.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: u64,
    /// Where there are several files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip)]
    place: (usize, usize),
}

/// Files with tensors.
#[derive(Debug)]
pub enum Files {
    /// Files of safetensors with their names, if any.
    Safetensors(Vec<(String, SafetensorsFile)>),
    Gguf(Box<gguf::File>),
}

impl Files {
    /// All tensors, file by file.
    pub fn tensors(&self) -> Vec<Tensor> {
        match self {
            Self::Safetensors(files) => {
                let is_one = files.len() == 1;
                let of_file = |(at, (name, file)): (usize, &(String, SafetensorsFile))| {
                    let named = (!is_one).then(|| name.clone());
                    let tensor = |(index, stored): (usize, &StoredTensor)| Tensor {
                        name: stored.name.clone(),
                        dtype: stored.dtype.to_string(),
                        shape: stored.shape.clone(),
                        bytes: stored.bytes(),
                        file: named.clone(),
                        place: (at, index),
                    };
                    file.tensors().iter().enumerate().map(tensor).collect::<Vec<_>>()
                };
                files.iter().enumerate().flat_map(of_file).collect()
            }
            Self::Gguf(file) => {
                let tensor = |(name, info): (&String, &gguf::TensorInfo)| Tensor {
                    name: name.clone(),
                    dtype: info.format().to_string(),
                    shape: info.shape().to_vec(),
                    bytes: info.bytes(),
                    file: None,
                    place: (0, 0),
                };
                file.tensors().iter().map(tensor).collect()
            }
        }
    }

    /// Those of a tensor's numbers; `None` for types whose numbers are not looked at.
    pub fn statistics(&self, tensor: &Tensor) -> Result<Option<Statistics>> {
        let mut statistics = Statistics::default();
        match self {
            Self::Safetensors(files) => {
                let (file, index) = tensor.place;
                let file = &files[file].1;
                let stored = &file.tensors()[index];
                let Some(numbers) = numbers(stored.dtype) else { return Ok(None) };
                let width = stored.dtype.bitsize() as u64 / 8;
                for start in (0..stored.count()).step_by(PIECE) {
                    let end = stored.count().min(start + PIECE);
                    let bytes = file.read(stored, start as u64 * width..end as u64 * width)?;
                    statistics.add(numbers(&bytes));
                }
            }
            Self::Gguf(file) => {
                let count: usize = tensor.shape.iter().product();
                for start in (0..count).step_by(PIECE) {
                    let part = file.numbers(&tensor.name, start..count.min(start + PIECE))?;
                    statistics.add(part.into_iter().map(f64::from));
                }
            }
        }
        Ok(Some(statistics))
    }
}

/// Numbers of a type out of its bytes.
type Numbers = fn(&[u8]) -> Vec<f64>;

/// How the numbers of a type are read, if they are.
fn numbers(dtype: Dtype) -> Option<Numbers> {
    fn wide(values: Vec<f32>) -> Vec<f64> {
        values.into_iter().map(f64::from).collect()
    }
    macro_rules! of {
        ($type:ty) => {
            |bytes: &[u8]| {
                let numbers = bytes.as_chunks().0.iter();
                numbers.map(|bytes| <$type>::from_le_bytes(*bytes) as f64).collect()
            }
        };
    }
    Some(match dtype {
        Dtype::F64 => of!(f64),
        Dtype::F32 => |bytes| wide(Precision::F32.decode(bytes)),
        Dtype::F16 => |bytes| wide(Precision::F16.decode(bytes)),
        Dtype::BF16 => |bytes| wide(Precision::Bf16.decode(bytes)),
        Dtype::I64 => of!(i64),
        Dtype::U64 => of!(u64),
        Dtype::I32 => of!(i32),
        Dtype::U32 => of!(u32),
        Dtype::I16 => of!(i16),
        Dtype::U16 => of!(u16),
        Dtype::I8 => of!(i8),
        Dtype::U8 | Dtype::BOOL => of!(u8),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_sizes_are_read() {
        let read = |dtype, bytes: &[u8]| numbers(dtype).expect("a type that is read")(bytes);
        assert_eq!(read(Dtype::F64, &(-2.5f64).to_le_bytes()), [-2.5]);
        assert_eq!(read(Dtype::F16, &[0x00, 0x3c, 0x00, 0x7c]), [1.0, f64::INFINITY]);
        assert_eq!(read(Dtype::BF16, &[0x80, 0xbf]), [-1.0]);
        assert_eq!(read(Dtype::I16, &[0xff, 0xff, 1, 0]), [-1.0, 1.0]);
        assert_eq!(read(Dtype::BOOL, &[0, 1]), [0.0, 1.0]);
        assert!(numbers(Dtype::F8_E4M3).is_none());
    }
}
