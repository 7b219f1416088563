//! Weights in blocks: buffers of their own behind those of the other parameters, which hold nothing
//! but frozen tensors in GGUF's blocks, taken apart for the device.

use std::ops::Range;

use super::Parameters;
use super::rows::pieces;
use super::values::Encoded;
use crate::error::{Error, Result};
use crate::graph::{ParameterSpec, Shape};
use crate::init::Draw;
use crate::kernel::BlockFormat;
use crate::record::{Slot, to_u32};

/// Some rows of a tensor that lie in one part of it.
struct Share {
    slot: Slot,
    format: BlockFormat,
    /// The first of them among the rows of the part.
    at: usize,
    /// Among the rows asked for.
    rows: Range<usize>,
}

impl Share {
    fn blocks(&self, rows: usize) -> usize {
        rows * self.slot.shape.row_blocks()
    }

    /// Where the q of these rows lie in the buffer, and where their scales.
    fn ranges(&self) -> [Range<u64>; 2] {
        let (format, base) = (self.format, self.slot.offset);
        let all = base + format.quants_before(self.blocks(self.slot.shape.rows()));
        let ends = [self.at, self.at + self.rows.len()].map(|row| self.blocks(row));
        let [first, end] = ends.map(|blocks| base + format.quants_before(blocks));
        let [first_scale, end_scale] = ends.map(|blocks| all + format.scales_before(blocks));
        [first..end, first_scale..end_scale]
    }

    /// Their bytes in all blocks of the rows asked for.
    fn bytes(&self) -> Range<usize> {
        let [first, end] =
            [self.rows.start, self.rows.end].map(|row| self.blocks(row) * self.format.bytes());
        first..end
    }
}

/// Fails for a tensor in blocks that is to be trained.
pub(super) fn check_frozen(specs: &[ParameterSpec]) -> Result<()> {
    let format = |spec: &ParameterSpec| spec.shape.block_format().filter(|_| spec.requires_grad);
    let Some((spec, format)) = specs.iter().find_map(|s| Some((s, format(s)?))) else {
        return Ok(());
    };
    Err(Error::Unsupported {
        what: format!("training of {}, whose weights lie in blocks of {format},", spec.name),
        instead: "train adapters beside it (GptConfig::lora), or freeze it (Graph::frozen, \
                  Graph::frozen_base, TrainerBuilder::freeze)"
            .into(),
    })
}

/// Blocks of numbers, the first of which has this index in its tensor.
fn quantized(name: &str, format: BlockFormat, first: usize, values: &[f32]) -> Result<Vec<u8>> {
    let blocks = format.encode(values);
    let nonfinite = values.iter().position(|value| !value.is_finite());
    let beyond = || format.nonfinite_block(&blocks).map(|block| BlockFormat::ELEMENTS * block);
    match nonfinite.or_else(beyond) {
        None => Ok(blocks),
        Some(index) => Err(Error::NonFinite {
            what: format!("the new value of {name}, in blocks of {format},"),
            index: first + index,
            value: values[index],
            advice: "its block has no scale in f16; check where the values come from".into(),
        }),
    }
}

impl Parameters {
    /// The flat buffers of weights in blocks, which are frozen and lie in no other.
    pub fn blocks(&self) -> &[wgpu::Buffer] {
        &self.blocks
    }

    /// Whether parameter `name` can hold this number. As [`can_hold`](Self::can_hold) for most;
    /// blocks have a [largest](BlockFormat::largest) one. It looks for the name.
    pub fn can_hold_in(&self, name: &str, value: f32) -> bool {
        match self.format_of(name) {
            None => self.can_hold(value),
            Some(format) => value.abs() <= format.largest(),
        }
    }

    /// The blocks that parameter `name` lies in, if it does.
    pub fn format_of(&self, name: &str) -> Option<BlockFormat> {
        self.layout.specs[self.position(name)?].shape.block_format()
    }

    /// Reads a parameter in blocks as GGUF has them, row by row. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownName`], for one that does not lie in blocks too;
    /// [`Error::DeviceLost`].
    pub async fn read_blocks(&self, name: &str) -> Result<(BlockFormat, Vec<u8>)> {
        let (index, format) = self.find_blocks(name)?;
        let rows = 0..self.layout.specs[index].shape.dims[0];
        Ok((format, self.read_block_rows(index, rows).await?))
    }

    /// Writes a parameter in blocks, as [`read_blocks`](Self::read_blocks) gives them: those of its
    /// format, row by row. On an error nothing is written.
    ///
    /// # Errors
    /// [`Error::UnknownName`], for one that does not lie in blocks too; [`Error::InputSize`], in
    /// bytes; [`Error::NonFinite`] for a scale that is NaN or Inf.
    pub fn write_blocks(&self, name: &str, blocks: &[u8]) -> Result<()> {
        for (buffer, offset, bytes) in self.encode_blocks(name, blocks)? {
            self.gpu.write(&buffer, offset, &bytes);
        }
        Ok(())
    }

    /// What [`write_blocks`](Self::write_blocks) writes.
    pub(crate) fn encode_blocks(&self, name: &str, blocks: &[u8]) -> Result<Vec<Encoded>> {
        let (index, format) = self.find_blocks(name)?;
        let shape = &self.layout.specs[index].shape;
        let expected = shape.rows() * shape.row_blocks() * format.bytes();
        if blocks.len() != expected {
            return Err(Error::InputSize {
                name: format!("the bytes of {name}"),
                expected,
                actual: blocks.len(),
                shape: shape.to_string(),
            });
        }
        if let Some(block) = format.nonfinite_block(blocks) {
            let decoded = format.decode(&blocks[block * format.bytes()..][..format.bytes()]);
            let found = decoded.iter().position(|value| !value.is_finite()).unwrap_or(0);
            return Err(Error::NonFinite {
                what: format!("the new value of {name}, in blocks of {format},"),
                index: BlockFormat::ELEMENTS * block + found,
                value: decoded[found],
                advice: "the scale of its block is not finite".into(),
            });
        }
        Ok(self.encoded_rows(index, 0..shape.dims[0], blocks))
    }

    fn find_blocks(&self, name: &str) -> Result<(usize, BlockFormat)> {
        let format = |spec: &ParameterSpec| spec.shape.block_format();
        let found = self.position(name).and_then(|i| Some((i, format(&self.layout.specs[i])?)));
        found.ok_or_else(|| {
            let specs = self.layout.specs.iter().filter(|spec| format(spec).is_some());
            Error::UnknownName {
                kind: "parameter in blocks",
                name: name.to_owned(),
                known: specs.map(|spec| &*spec.name).collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// Numbers for parameter `index`, in its blocks.
    pub(super) fn encode_in_blocks(&self, index: usize, values: &[f32]) -> Result<Vec<Encoded>> {
        let ParameterSpec { name, shape, .. } = &self.layout.specs[index];
        let format = shape.block_format().expect("in blocks");
        let blocks = quantized(name, format, 0, values)?;
        Ok(self.encoded_rows(index, 0..shape.dims[0], &blocks))
    }

    /// The blocks of a parameter that lies in them, of buffers whose contents are on the host.
    pub(crate) fn blocks_from<'a>(
        &self,
        name: &str,
        contents: impl Fn(&wgpu::Buffer) -> &'a [u8],
    ) -> Vec<u8> {
        let index = self.position(name).expect("one of its own names");
        let mut blocks = Vec::new();
        for share in self.block_shares(index, 0..self.layout.specs[index].shape.dims[0]) {
            let all = contents(&share.slot.buffer);
            let [quants, scales] = share.ranges().map(|r| &all[r.start as usize..r.end as usize]);
            blocks.extend(share.format.join(quants, scales));
        }
        blocks
    }

    /// Writes blocks of some rows, of which the first has an even number. Returns their bytes.
    pub(super) fn write_block_rows(&self, index: usize, rows: Range<usize>, blocks: &[u8]) -> u64 {
        for (buffer, offset, bytes) in self.encoded_rows(index, rows, blocks) {
            self.gpu.write(&buffer, offset, &bytes);
        }
        blocks.len() as u64
    }

    fn encoded_rows(&self, index: usize, rows: Range<usize>, blocks: &[u8]) -> Vec<Encoded> {
        let mut encoded = Vec::new();
        for share in self.block_shares(index, rows) {
            let parts = share.format.split(&blocks[share.bytes()]);
            for (range, bytes) in share.ranges().into_iter().zip(parts) {
                debug_assert!(range.start.is_multiple_of(4), "rows that begin inside of a word");
                encoded.push((share.slot.buffer.clone(), range.start, bytes));
            }
        }
        encoded
    }

    /// The blocks of some rows. Waits for the device.
    pub(super) async fn read_block_rows(
        &self,
        index: usize,
        rows: Range<usize>,
    ) -> Result<Vec<u8>> {
        let mut blocks = Vec::new();
        for share in self.block_shares(index, rows) {
            let mut found = Vec::with_capacity(2);
            for range in share.ranges() {
                // Whole words around them.
                let first = range.start / 4 * 4;
                let count = (range.end.next_multiple_of(4) - first) as usize;
                let words: Vec<u8> = self.gpu.read(&share.slot.buffer, first, count).await?;
                let start = (range.start - first) as usize;
                found.push(words[start..start + (range.end - range.start) as usize].to_vec());
            }
            blocks.extend(share.format.join(&found[0], &found[1]));
        }
        Ok(blocks)
    }

    fn block_shares(&self, index: usize, rows: Range<usize>) -> Vec<Share> {
        let slot = self.slot(index);
        let format = slot.shape.block_format().expect("in blocks");
        let share = |(first, part): (usize, Slot)| {
            let inside = rows.start.max(first)..rows.end.min(first + part.shape.dims[0]);
            (!inside.is_empty()).then(|| Share {
                at: inside.start - first,
                rows: inside.start - rows.start..inside.end - rows.start,
                slot: part,
                format,
            })
        };
        slot.parts().into_iter().filter_map(share).collect()
    }

    /// Draws the initial values of parameters in blocks, a few rows at a time, as those of others are
    /// drawn: in f32 on the device.
    pub(super) async fn initialize_blocks(&self, seed: u32) -> Result<()> {
        for (index, spec) in self.layout.specs.iter().enumerate() {
            let Some(format) = spec.shape.block_format() else { continue };
            let distribution = spec.init.resolve(&spec.shape.dims);
            // As many rows as a binding holds in f32.
            let fitting = self.gpu.largest_binding() / (4 * spec.shape.cols() as u64);
            let most = usize::try_from(fitting / 2 * 2).unwrap_or(usize::MAX).max(2);
            let fits = |piece: Range<usize>| {
                let end = piece.end;
                piece.step_by(most).map(move |first| first..end.min(first.saturating_add(most)))
            };
            for range in pieces(&spec.shape, 0..spec.shape.dims[0]).flat_map(fits) {
                let shape = Shape::real([range.len(), spec.shape.cols()]);
                let drawn = Slot::new(self.gpu.buffer("drawn weights", shape.bytes()), shape);
                let [first_row, rows, cols] =
                    [range.start, range.len(), spec.shape.cols()].map(to_u32);
                let draw = Draw { first_row, rows, cols, seed, stream: spec.stream };
                distribution.write(&self.gpu, draw, drawn.binding());
                let values = super::read_slot(&self.gpu, &drawn).await?;
                let first = range.start * spec.shape.cols();
                let blocks = quantized(&spec.name, format, first, &values)?;
                self.write_block_rows(index, range, &blocks);
            }
        }
        Ok(())
    }
}
