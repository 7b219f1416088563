//! Tensors on their way into a file.

use super::super::container::{Container, DEFAULT_ALIGNMENT, MAGIC, TensorInfo};
use super::super::file::rows_together;
use super::super::format::Format;
use super::super::value::{Value, write_text};
use super::FILE;
use crate::error::Result;
use crate::hugging_face::{Kept, Sink, TheirTensor, Values, invalid};
use crate::kernel::Precision;
use crate::plan::parameters::pieces;
use crate::shape::Shape;

const VERSION: u32 = 3;

/// One tensor on its way.
pub(super) struct Planned {
    pub name: String,
    pub format: Format,
    pub shape: Vec<usize>,
    pub numbers: Numbers,
}

/// Where its numbers come from.
pub(super) enum Numbers {
    /// Rows of the parameter with this index and shape.
    Parameter { index: usize, whole: Shape, theirs: TheirTensor },
    /// What follows from the configuration.
    Derived(Vec<f32>),
}

impl Planned {
    /// What a file says of it, for a place behind the first number.
    pub fn info(&self, start: u64) -> TensorInfo {
        TensorInfo { format: self.format, shape: self.shape.clone(), start }
    }

    /// Bytes up to the next tensor.
    fn room(&self) -> u64 {
        self.info(0).bytes().next_multiple_of(DEFAULT_ALIGNMENT)
    }

    async fn write(&self, values: &Values<'_>, sink: &mut impl Sink) -> Result<()> {
        match &self.numbers {
            Numbers::Derived(numbers) => sink.put(&self.encoded(numbers)?)?,
            Numbers::Parameter { index, whole, theirs } => {
                let rows = theirs.rows.clone();
                let pieces: Vec<_> = match theirs.kept {
                    // Rows change their places within a head.
                    Kept::Paired { heads } => {
                        let head = rows.len() / heads;
                        rows.step_by(head).map(|first| first..first + head).collect()
                    }
                    Kept::Same | Kept::OnePlus => pieces(whole, rows).collect(),
                };
                for piece in pieces {
                    let count = piece.len();
                    let numbers = values.rows(*index, piece).await?;
                    sink.put(&self.encoded(&as_kept(theirs.kept, numbers, count))?)?;
                }
            }
        }
        let bytes = self.info(0).bytes();
        sink.put(&vec![0; (self.room() - bytes) as usize])
    }

    /// The bytes of numbers in the format that they are to have, in which they must be finite.
    fn encoded(&self, numbers: &[f32]) -> Result<Vec<u8>> {
        let format = self.format;
        let failed = |value: f32| {
            let name = &self.name;
            let reason = format!("{name} holds {value}, which is not finite in {format}");
            Err(invalid(FILE, reason))
        };
        if let Some(&value) = numbers.iter().find(|number| !number.is_finite()) {
            return failed(value);
        }
        let precision = match format {
            Format::F16 => Precision::F16,
            Format::Bf16 => Precision::Bf16,
            _ => Precision::F32,
        };
        let Some(blocks) = format.of_weights() else {
            let bytes = precision.encode(numbers);
            let stored = precision.decode(&bytes);
            return match stored.iter().position(|value| !value.is_finite()) {
                Some(index) => failed(numbers[index]),
                None => Ok(bytes),
            };
        };
        let bytes = blocks.encode(numbers);
        match blocks.nonfinite_block(&bytes) {
            Some(index) => {
                let block = numbers.chunks(format.block_elements()).nth(index).unwrap_or(numbers);
                failed(
                    block
                        .iter()
                        .fold(0.0, |most, &x| if x.abs() > f32::abs(most) { x } else { most }),
                )
            }
            None => Ok(bytes),
        }
    }
}

/// Numbers of so many rows of a parameter as a file has them.
fn as_kept(kept: Kept, numbers: Vec<f32>, rows: usize) -> Vec<f32> {
    match kept {
        Kept::Same => numbers,
        Kept::OnePlus => numbers.into_iter().map(|number| number + 1.0).collect(),
        Kept::Paired { .. } => rows_together(&numbers, rows),
    }
}

/// All that is in front of the numbers.
pub(super) fn header(container: &Container, tensors: &[Planned]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((container.metadata.len() as u64).to_le_bytes());
    // What the model is comes before what it has.
    let is_general = |(name, _): &(&String, &Value)| name.starts_with("general.");
    let (general, own): (Vec<_>, Vec<_>) = container.metadata.iter().partition(is_general);
    for (name, value) in general.into_iter().chain(own) {
        write_text(name, &mut bytes);
        bytes.extend(value.code().to_le_bytes());
        value.write(&mut bytes);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        write_text(&tensor.name, &mut bytes);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| bytes.extend((size as u64).to_le_bytes()));
        bytes.extend(tensor.format.code().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.room();
    }
    bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    bytes
}

/// A whole file, some rows at a time.
pub(super) async fn write(
    header: &[u8],
    tensors: &[Planned],
    values: &Values<'_>,
    sink: &mut impl Sink,
) -> Result<()> {
    sink.put(header)?;
    for tensor in tensors {
        tensor.write(values, sink).await?;
    }
    Ok(())
}

/// Bytes of all numbers with what lies between them.
pub(super) fn bytes(tensors: &[Planned]) -> u64 {
    tensors.iter().map(Planned::room).sum()
}
