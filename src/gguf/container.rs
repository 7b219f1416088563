//! What is in a GGUF file: metadata and the places of tensors. Nothing that the file says is
//! believed before it was compared with the file's length.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::format::{Format, other_name};
use super::value::{ARRAY, Array, BOOL, STRING, Value, number_size};
use crate::error::Result;
use crate::hugging_face::{Source, invalid};

pub(super) const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
/// Where the file does not say.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes that a value and a tensor take at least: lengths, types, places.
const SMALLEST_VALUE: u64 = 8 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
/// How deep lists may lie in lists.
const DEEPEST: usize = 4;
/// Dimensions of a tensor in ggml.
const MOST_DIMENSIONS: u32 = 4;

/// A tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) format: Format,
    pub(super) shape: Vec<usize>,
    /// The first byte in the file.
    pub(super) start: u64,
}

impl TensorInfo {
    /// How its numbers are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its dimensions, rows first: the other way round than in the file.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        (self.count() / self.format.block_elements()) as u64 * self.format.block_bytes() as u64
    }
}

/// What is in a file, but no numbers.
#[derive(Debug)]
pub(super) struct Container {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor as the file describes it.
struct Described {
    name: String,
    shape: Vec<usize>,
    code: u32,
    /// Behind the beginning of the numbers.
    offset: u64,
}

impl Container {
    /// Reads the front of a file with this name.
    pub fn read(name: &str, source: &Source) -> Result<Self> {
        let mut cursor = Cursor::new(name, source)?;
        let (tensors, values) = counts(&mut cursor)?;
        let mut metadata = BTreeMap::new();
        for index in 0..values {
            let key = cursor.text(&format!("the name of value {index} of {values}"))?;
            let code = cursor.u32(&key)?;
            let value = value(&mut cursor, &key, code)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(invalid(name, format!("the value {key} is in it twice")));
            }
        }
        let described = (0..tensors).map(|index| described(&mut cursor, index, tensors));
        let described = described.collect::<Result<Vec<_>>>()?;
        let alignment = alignment(name, &metadata)?;
        let start = cursor.at().next_multiple_of(alignment);
        let tensors = placed(name, &described, start..cursor.length(), alignment)?;
        Ok(Self { metadata, tensors })
    }
}

/// How many tensors and values there are.
fn counts(cursor: &mut Cursor<'_>) -> Result<(u64, u64)> {
    let magic = cursor.take(4, "its first word")?;
    if magic != MAGIC {
        let found = magic.escape_ascii().to_string();
        return Err(cursor.invalid(format!("it is no GGUF file: it begins with \"{found}\"")));
    }
    match cursor.u32("its version")? {
        2 | 3 => {}
        version if version & 0xffff == 0 && version != 0 => {
            let reason = "its numbers are big-endian, as other machines have them; \
                          gguf-convert-endian of the PyPI package gguf makes a little-endian one";
            return Err(cursor.invalid(reason));
        }
        version => {
            let reason = format!(
                "it has version {version} of the format, and 2 and 3 are read; convert the model \
                 again with llama.cpp's convert_hf_to_gguf.py"
            );
            return Err(cursor.invalid(reason));
        }
    }
    let tensors = cursor.count("the number of tensors", SMALLEST_TENSOR)?;
    let values = cursor.count("the number of values", SMALLEST_VALUE)?;
    Ok((tensors, values))
}

fn value(cursor: &mut Cursor<'_>, key: &str, code: u32) -> Result<Value> {
    match code {
        BOOL => Ok(Value::Bool(bools(cursor, key, 1)?[0])),
        STRING => Ok(Value::String(cursor.text(key)?)),
        ARRAY => Ok(Value::Array(array(cursor, key, 0)?)),
        _ => {
            let size = size_of_number(cursor, key, code)?;
            let number = Value::number(code, cursor.take(size, key)?);
            Ok(number.expect("as many bytes as it has"))
        }
    }
}

fn array(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<Array> {
    if depth == DEEPEST {
        let reason = format!("{key} has lists in lists, more than {DEEPEST} deep");
        return Err(cursor.invalid(reason));
    }
    let code = cursor.u32(key)?;
    match code {
        BOOL => {
            let count = cursor.count(key, 1)?;
            Ok(Array::Bool(bools(cursor, key, count)?))
        }
        STRING => {
            let count = cursor.count(key, 8)?;
            let texts = (0..count).map(|_| cursor.text(key));
            Ok(Array::String(texts.collect::<Result<_>>()?))
        }
        ARRAY => {
            let count = cursor.count(key, 4 + 8)?;
            let lists = (0..count).map(|_| array(cursor, key, depth + 1));
            Ok(Array::Array(lists.collect::<Result<_>>()?))
        }
        _ => {
            let size = size_of_number(cursor, key, code)?;
            let bytes = cursor.count(key, size)? * size;
            let numbers = Array::numbers(code, cursor.take(bytes, key)?);
            Ok(numbers.expect("whole numbers"))
        }
    }
}

fn size_of_number(cursor: &Cursor<'_>, key: &str, code: u32) -> Result<u64> {
    number_size(code)
        .ok_or_else(|| cursor.invalid(format!("{key} is of type {code}, which is not known")))
}

fn bools(cursor: &mut Cursor<'_>, key: &str, count: u64) -> Result<Vec<bool>> {
    let bytes = cursor.take(count, key)?;
    if let Some(other) = bytes.iter().find(|byte| **byte > 1) {
        let reason = format!("{key} is {other}, neither true nor false");
        return Err(cursor.invalid(reason));
    }
    Ok(bytes.iter().map(|byte| *byte == 1).collect())
}

fn described(cursor: &mut Cursor<'_>, index: u64, count: u64) -> Result<Described> {
    let name = cursor.text(&format!("the name of tensor {index} of {count}"))?;
    let dimensions = cursor.u32(&name)?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        let reason = format!("{name} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}");
        return Err(cursor.invalid(reason));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(cursor.u64(&name)?);
    }
    let (code, offset) = (cursor.u32(&name)?, cursor.u64(&name)?);
    sizes.reverse();
    let shape: Option<Vec<_>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
    let is_sound = |shape: &Vec<usize>| {
        let count = shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size));
        count.is_some_and(|count| count > 0)
    };
    match shape.filter(is_sound) {
        Some(shape) => Ok(Described { name, shape, code, offset }),
        None => Err(cursor.invalid(format!("{name} has the shape {sizes:?}, which cannot be"))),
    }
}

fn alignment(name: &str, metadata: &BTreeMap<String, Value>) -> Result<u64> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() => Ok((*bytes).into()),
        Some(other) => {
            let reason = format!("{ALIGNMENT} is {}, no power of two in u32", other.to_json());
            Err(invalid(name, reason))
        }
    }
}

/// All tensors, each of which lies within these bytes of the file and on no other.
fn placed(
    name: &str,
    described: &[Described],
    bytes: Range<u64>,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>> {
    check_formats(name, described)?;
    let mut tensors = BTreeMap::new();
    for tensor in described {
        let info = place(tensor, &bytes, alignment).map_err(|reason| invalid(name, reason))?;
        if tensors.insert(tensor.name.clone(), info).is_some() {
            return Err(invalid(name, format!("the tensor {} is in it twice", tensor.name)));
        }
    }
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.start);
    for pair in in_order.windows(2) {
        let [(first, info), (second, next)] = pair else { unreachable!("pairs") };
        if next.start < info.start + info.bytes() {
            let reason = format!("{first} and {second} lie on the same bytes");
            return Err(invalid(name, reason));
        }
    }
    Ok(tensors)
}

/// Where a tensor is, or what is wrong with that in words.
fn place(tensor: &Described, bytes: &Range<u64>, alignment: u64) -> Result<TensorInfo, String> {
    let Described { name, shape, code, offset } = tensor;
    let format = Format::of_code(*code).expect("one of those that are read");
    let block = format.block_elements();
    if !shape.last().is_some_and(|columns| columns.is_multiple_of(block)) {
        return Err(format!(
            "{name} {shape:?} is {format}, which has blocks of {block} along rows"
        ));
    }
    let blocks = shape.iter().product::<usize>() / block;
    let size = (blocks as u64).checked_mul(format.block_bytes() as u64);
    let start = bytes.start.checked_add(*offset);
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
    let Some(start) = start.filter(|_| end.is_some_and(|end| end <= bytes.end)) else {
        return Err(format!("{name} ends behind the file, which is cut off; get it again"));
    };
    if !offset.is_multiple_of(alignment) {
        return Err(format!("{name} begins at {offset}, no multiple of {ALIGNMENT} {alignment}"));
    }
    Ok(TensorInfo { format, shape: shape.clone(), start })
}

/// Fails if there are tensors in formats that are not read.
fn check_formats(name: &str, described: &[Described]) -> Result<()> {
    let others: Vec<_> =
        described.iter().filter(|tensor| Format::of_code(tensor.code).is_none()).collect();
    let Some(first) = others.first() else { return Ok(()) };
    let Described { name: tensor, code, .. } = first;
    let Some(format) = other_name(*code) else {
        return Err(invalid(name, format!("{tensor} is of type {code}, which is not known")));
    };
    let more = match others.len() {
        1 => String::new(),
        count => format!(", the first of {count} tensors in such formats"),
    };
    let known = Format::ALL.map(Format::name).join(", ");
    let reason = format!(
        "{tensor} is {format}{more}; read are {known}. llama.cpp's llama-quantize makes a Q8_0 or \
         Q4_0 of the model in F16 or BF16, and with --allow-requantize of this file"
    );
    Err(invalid(name, reason))
}
