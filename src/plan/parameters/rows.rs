//! Values of parameters that come and go a few rows at a time, so that the host never holds more of
//! a model than that.

use std::ops::Range;

use super::values::{beside_offset, keeps_beside};
use super::{ParameterLayout, Parameters};
use crate::error::Result;
use crate::graph::{ParameterSpec, Shape};
use crate::kernel::{BlockFormat, WeightStorage};
use crate::plan::parts::rows_of;
use crate::record::Slot;

/// Elements that are on their way at once.
const PIECE: usize = 1 << 22;

/// Bytes that are handed to the device before it is waited for: until then the host holds them.
const IN_FLIGHT: u64 = 64 << 20;

/// Where new values of all parameters come from, some rows at a time.
pub trait WeightSource {
    /// Fails unless it has finite values, which the storage can hold, for every parameter that it
    /// [provides](Self::provides), in the shape that it has here. After that, [`rows`](Self::rows)
    /// gives these values.
    ///
    /// # Errors
    /// One that names all that is wrong.
    fn check(&mut self, parameters: &Parameters) -> Result<()>;

    /// Whether it has values for the parameter with this name: all by default. Those that it has none
    /// for stay as they are, or [start](crate::graph::Graph::start_as) anew.
    fn provides(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// Some entries of the first dimension of the parameter with this name, dense. Of a vector
    /// always all.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<Vec<f32>>;

    /// The same entries in blocks, for a parameter that lies in these: by default those that
    /// [`BlockFormat::encode`] makes of the numbers. A source that has such blocks gives them as they
    /// are.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn blocks(&mut self, name: &str, rows: Range<usize>, format: BlockFormat) -> Result<Vec<u8>> {
        Ok(format.encode(&self.rows(name, rows)?))
    }
}

/// Ranges of the first dimension, of few elements each. A vector is whole: its padding is. Of blocks
/// they begin at even rows, where the scales begin with a word.
pub(crate) fn pieces(shape: &Shape, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let entry = shape.count() / shape.dims[0];
    let step = match shape.block_format() {
        Some(_) => (PIECE / entry).next_multiple_of(2).max(2),
        None if shape.dims.len() == 1 => range.len(),
        None => (PIECE / entry).max(1),
    };
    let end = range.end;
    range.step_by(step.max(1)).map(move |first| first..end.min(first + step))
}

/// The most bytes that the host holds while all weights come from a [`WeightSource`], beside what
/// that holds itself: some rows in f32, and what was handed to the device.
pub(crate) fn loading_bytes(layout: &ParameterLayout) -> u64 {
    let piece = |spec: &ParameterSpec| {
        let shape = &spec.shape;
        let rows = pieces(shape, 0..shape.dims[0]).map(|rows| rows.len()).max().unwrap_or(0);
        4 * (rows * (shape.count() / shape.dims[0])) as u64
    };
    let largest = layout.specs().iter().map(piece).max().unwrap_or(0);
    let all = layout.weight_bytes().sum::<u64>() + layout.block_bytes().iter().sum::<u64>();
    largest + all.min(IN_FLIGHT + largest)
}

/// What of some entries of a parameter lies in one part of it.
struct Share {
    slot: Slot,
    /// Among the entries asked for, in elements.
    elements: Range<usize>,
    /// From the beginning of the part, in bytes of the weights that kernels read.
    offset: u64,
    shape: Shape,
}

impl Parameters {
    /// Takes the values of all parameters from a source that it provides. Others, and states, stay as
    /// they are. About 64 MiB of them are on the host at once, beside what the source holds.
    ///
    /// # Errors
    /// Those of [`WeightSource::check`], before anything is written. Where the source fails later
    /// than that, some parameters have new values and others old ones.
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn load(&self, source: &mut impl WeightSource) -> Result<()> {
        self.gpu.check()?;
        source.check(self)?;
        let mut in_flight = 0;
        let specs =
            self.layout.specs.iter().enumerate().filter(|(_, spec)| source.provides(&spec.name));
        let specs: Vec<_> = specs.collect();
        for (index, spec) in specs {
            for rows in pieces(&spec.shape, 0..spec.shape.dims[0]) {
                in_flight += if let Some(format) = spec.shape.block_format() {
                    let blocks = source.blocks(&spec.name, rows.clone(), format)?;
                    self.write_block_rows(index, rows, &blocks)
                } else {
                    let values = source.rows(&spec.name, rows.clone())?;
                    self.write_rows(index, rows, &values)
                };
                if in_flight >= IN_FLIGHT {
                    self.finish_writes().await?;
                    in_flight = 0;
                }
            }
        }
        self.finish_writes().await
    }

    /// Whether the storage of parameters makes a finite number of this one; see
    /// [`can_hold_in`](Self::can_hold_in) for those in blocks.
    pub fn can_hold(&self, value: f32) -> bool {
        match self.layout.storage {
            WeightStorage::F32 | WeightStorage::Bf16Split => value.is_finite(),
            WeightStorage::Bf16Stochastic | WeightStorage::Bf16Kahan => {
                half::bf16::from_f32(value).is_finite()
            }
        }
    }

    /// Waits until the device has what was written.
    pub(crate) async fn finish_writes(&self) -> Result<()> {
        let encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.wait(self.gpu.submit(encoder)).await
    }

    /// Writes some entries of parameter `index`, of a vector all. Returns the bytes written.
    pub(crate) fn write_rows(&self, index: usize, rows: Range<usize>, values: &[f32]) -> u64 {
        let mut bytes = 0;
        for Share { slot, elements, offset, shape } in self.shares(index, rows) {
            let [weights, beside] = self.layout.storage.encode(&shape.pad(&values[elements]));
            bytes += (weights.len() + beside.len()) as u64;
            self.gpu.write(&slot.buffer, slot.offset + offset, &weights);
            if !beside.is_empty() {
                self.gpu.write(&slot.buffer, beside_offset(&slot) + offset, &beside);
            }
        }
        bytes
    }

    /// Reads some entries of parameter `index`, dense: all that the storage knows of them. Waits
    /// for the device.
    pub(crate) async fn read_rows(&self, index: usize, rows: Range<usize>) -> Result<Vec<f32>> {
        if let Some(format) = self.layout.specs[index].shape.block_format() {
            return Ok(format.decode(&self.read_block_rows(index, rows).await?));
        }
        let dims = &self.layout.specs[index].shape.dims;
        let (asked, rows) =
            if dims.len() == 1 { (rows, 0..dims[0]) } else { (0..usize::MAX, rows) };
        let mut values = Vec::new();
        for Share { slot, offset, shape, .. } in self.shares(index, rows) {
            let bytes = shape.bytes() as usize;
            let weights: Vec<u8> = self.gpu.read(&slot.buffer, slot.offset + offset, bytes).await?;
            let beside: Vec<u8> = if keeps_beside(self.layout.storage) {
                self.gpu.read(&slot.buffer, beside_offset(&slot) + offset, bytes).await?
            } else {
                Vec::new()
            };
            values.extend(shape.unpad(&self.layout.storage.decode(&weights, &beside)));
        }
        values.truncate(asked.end);
        values.drain(..asked.start);
        Ok(values)
    }

    fn shares(&self, index: usize, rows: Range<usize>) -> Vec<Share> {
        let slot = self.slot(index);
        let entry = slot.shape.count() / slot.shape.dims[0];
        let share = |(first, part): (usize, Slot)| {
            let inside = rows.start.max(first)..rows.end.min(first + part.shape.dims[0]);
            if inside.is_empty() {
                return None;
            }
            // A vector has one part, and begins where that does.
            let entry_bytes = part.shape.bytes() / part.shape.dims[0] as u64;
            Some(Share {
                elements: (inside.start - rows.start) * entry..(inside.end - rows.start) * entry,
                offset: (inside.start - first) as u64 * entry_bytes,
                shape: rows_of(&part.shape, inside.len()),
                slot: part,
            })
        };
        slot.parts().into_iter().filter_map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_rows_and_vectors_are_whole() {
        let all = |shape: &Shape, range| -> Vec<_> {
            pieces(shape, range).map(|piece| (piece.start, piece.end)).collect()
        };
        let wide = Shape::real([5, PIECE / 2]);
        assert_eq!(all(&wide, 0..5), [(0, 2), (2, 4), (4, 5)]);
        assert_eq!(all(&wide, 1..2), [(1, 2)]);
        assert_eq!(all(&Shape::real([3, 2 * PIECE]), 0..3), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(all(&Shape::real([2 * PIECE]), 0..2 * PIECE), [(0, 2 * PIECE)]);
        assert_eq!(all(&Shape::real([8]), 3..5), [(3, 5)]);
        let blocks = Shape::blocks([5, PIECE], BlockFormat::Q8_0);
        assert_eq!(all(&blocks, 0..5), [(0, 2), (2, 4), (4, 5)]);
    }
}
