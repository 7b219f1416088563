//! Tensors on their way into a file.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::peft::Merge;
use super::{TheirTensor, invalid};
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::Replacement;
use crate::kernel::Precision;
use crate::nn::{GptConfig, Lora};
use crate::plan::Parameters;
use crate::plan::parameters::pieces;
use crate::shape::Shape;

/// One tensor on its way.
pub(super) struct Planned {
    pub name: String,
    pub precision: Precision,
    /// Index and shape of the parameter that it is a part of.
    pub parameter: usize,
    pub whole: Shape,
    pub theirs: TheirTensor,
    pub is_transposed: bool,
}

/// Where values come from.
pub(crate) struct Values<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) merge: Option<Merge>,
}

impl<'a> Values<'a> {
    /// Those of a model, with this adapter as a part of them.
    pub fn new(gpt: &GptConfig, lora: Option<&Lora>, parameters: &'a Parameters) -> Result<Self> {
        let merge = |lora| Merge::new(gpt, lora, parameters);
        Ok(Self { parameters, merge: lora.map(merge).transpose()? })
    }

    /// Some rows of a parameter.
    pub async fn rows(&self, parameter: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut values = self.parameters.read_rows(parameter, rows.clone()).await?;
        if let Some(merge) = &self.merge {
            merge.add(self.parameters, parameter, rows, &mut values).await?;
        }
        Ok(values)
    }
}

impl Planned {
    pub fn bytes(&self) -> u64 {
        self.theirs.shape.iter().product::<usize>() as u64 * self.precision.quad_bytes() / 4
    }
}

/// A file of tensors.
pub(super) struct Shard {
    pub name: String,
    pub tensors: Vec<Planned>,
}

impl Shard {
    /// Types of larger alignment first, so that all numbers are aligned.
    pub fn new(name: String, mut tensors: Vec<Planned>) -> Self {
        let key = |tensor: &Planned| (dtype(tensor.precision), tensor.name.clone());
        tensors.sort_by(|a, b| {
            let ((a_type, a_name), (b_type, b_name)) = (key(a), key(b));
            b_type.cmp(&a_type).then(a_name.cmp(&b_name))
        });
        Self { name, tensors }
    }
}

/// Where bytes go.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Sink for Replacement {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }
}

/// Another sink, and who is told of what goes there.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) struct Told<'a, S> {
    pub sink: &'a mut S,
    pub written: &'a mut u64,
    pub total: u64,
    pub tell: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

#[cfg(not(target_arch = "wasm32"))]
impl<S: Sink> Sink for Told<'_, S> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.put(bytes)?;
        *self.written = (*self.written + bytes.len() as u64).min(self.total);
        (self.tell)(*self.written, self.total)
    }
}

const fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
        Precision::Bf16 => Dtype::BF16,
    }
}

/// Writes a file of tensors.
pub(super) async fn write_shard(
    shard: &Shard,
    values: &Values<'_>,
    sink: &mut impl Sink,
) -> Result<()> {
    sink.put(&header(shard)?)?;
    for tensor in &shard.tensors {
        write_tensor(tensor, values, &shard.name, sink).await?;
    }
    Ok(())
}

/// What is in front of the numbers: a length, names, types and shapes.
fn header(shard: &Shard) -> Result<Vec<u8>> {
    let failed = |error: String| invalid(&shard.name, error);
    let mut start = 0;
    let mut infos = Vec::with_capacity(shard.tensors.len());
    for tensor in &shard.tensors {
        let end = start + tensor.bytes() as usize;
        let info = TensorInfo {
            dtype: dtype(tensor.precision),
            shape: tensor.theirs.shape.clone(),
            data_offsets: (start, end),
        };
        infos.push((tensor.name.clone(), info));
        start = end;
    }
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), infos).map_err(|error| failed(error.to_string()))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| failed(error.to_string()))?;
    // Numbers are to begin at a multiple of 8 bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

async fn write_tensor(
    tensor: &Planned,
    from: &Values<'_>,
    file: &str,
    sink: &mut impl Sink,
) -> Result<()> {
    let rows = tensor.theirs.rows.clone();
    if tensor.is_transposed {
        let values = from.rows(tensor.parameter, rows.clone()).await?;
        let (height, width) = (rows.len(), values.len() / rows.len());
        let column = |column| (0..height).map(move |row| row * width + column);
        let transposed: Vec<_> = (0..width).flat_map(column).map(|index| values[index]).collect();
        return sink.put(&encoded(tensor, &transposed, file)?);
    }
    for piece in pieces(&tensor.whole, rows) {
        let values = from.rows(tensor.parameter, piece).await?;
        sink.put(&encoded(tensor, &values, file)?)?;
    }
    Ok(())
}

/// The bytes of numbers in the type that they are to have, in which they must be finite.
fn encoded(tensor: &Planned, values: &[f32], file: &str) -> Result<Vec<u8>> {
    let bytes = tensor.precision.encode(values);
    let stored = tensor.precision.decode(&bytes);
    match stored.iter().position(|value| !value.is_finite()) {
        None => Ok(bytes),
        Some(index) => {
            let (name, value) = (&tensor.name, values[index]);
            let precision = tensor.precision;
            let reason = format!("{name} holds {value}, which is not finite in {precision}");
            Err(invalid(file, reason))
        }
    }
}
