//! What optimizers keep, in checkpoints: tensor by tensor, whatever buffers and ranks it lies on.

use std::borrow::Cow;
use std::ops::Range;

use super::restore::Write;
use super::{Checkpoint, invalid, moment_name};
use crate::error::Result;
use crate::graph::Shape;
use crate::plan::parts::rows_of;
use crate::train::ranks::Shards;
use crate::train::{Model, Trainer};

/// What the optimizer keeps of one tensor, or of a part of it, in one of its buffers.
pub(super) struct Moment {
    /// Its name in the file.
    pub name: String,
    /// The name that the optimizer has for the buffer.
    pub moment: &'static str,
    /// Row of the tensor table.
    pub tensor: usize,
    /// The buffer: its segment, and which of the optimizer's it is.
    pub buffer: [usize; 2],
    /// Where it lies in the buffer, in bytes, and its scales in front.
    pub codes: Range<usize>,
    pub scales: Range<usize>,
    pub is_square: bool,
    pub shape: Shape,
    /// The first of its rows among those of the tensor.
    pub first_row: usize,
    /// The shape of all parts together, those of other ranks too.
    pub whole: Shape,
}

impl<M: Model> Trainer<M> {
    /// Puts moments into a checkpoint behind those that it has, out of buffers that lie here.
    pub(super) fn put_moments<'a>(
        &self,
        checkpoint: &mut Checkpoint,
        moments: &[Moment],
        contents: impl Fn([usize; 2]) -> &'a [u8],
    ) {
        let storage = self.settings.optimizer().moment_storage();
        for Moment { name, buffer, codes, scales, is_square, shape, .. } in moments {
            let bytes = contents(*buffer);
            let [scales, codes] = [scales, codes].map(|range| &bytes[range.clone()]);
            let dense = shape.unpad(&storage.decode(scales, codes, *is_square));
            checkpoint.append_floats(name, &shape.dims, &dense);
        }
    }

    /// Which rank keeps which moments.
    pub(super) fn shards(&self) -> Shards {
        self.settings.shards(self.parameters.layout())
    }

    /// All that the optimizer keeps here, as [`moments_of`](Self::moments_of) has it.
    pub(super) fn moments_of_tensors(&self) -> Vec<Moment> {
        let shards = self.shards();
        self.moments_of(&shards, shards.rank)
    }

    /// All that optimizers keep on all ranks together, as one rank would.
    pub(super) fn moments_of_all(&self) -> Vec<Moment> {
        self.moments_of(&Shards::of_one(self.parameters.layout()), 0)
    }

    /// All that the optimizer keeps on a rank, tensor by tensor in the order of their names in the
    /// file; what belongs to the parts of one tensor follows each other as they do.
    pub(super) fn moments_of(&self, shards: &Shards, rank: usize) -> Vec<Moment> {
        let layout = self.parameters.layout();
        let optimizer = self.settings.optimizer();
        let storage = optimizer.moment_storage();
        let mut all = Vec::new();
        for segment in 0..layout.trained_segments().len() {
            let tensors = shards.tensors(layout, segment, rank);
            let shares = optimizer.moment_shares(&tensors);
            let chunks = tensors.last().map_or(0, |last| last.first_chunk + last.chunk_count);
            let first = storage.scale_bytes(chunks) as usize;
            let quad = storage.quad_bytes() as usize;
            for (index, (&moment, shares)) in self.moment_names.iter().zip(shares).enumerate() {
                all.extend(shares.into_iter().map(|share| {
                    let (tensor, quads) = (&tensors[share.tensor], share.shape.quads());
                    let codes = first + quad * share.first as usize;
                    let (scales, scale_bytes) = storage.scales_of(tensor.first_chunk, quads);
                    let rows = tensor.spec.shape.dims[0];
                    let is_whole = tensor.rows == rows;
                    Moment {
                        name: moment_name(moment, &tensor.spec.name),
                        moment,
                        tensor: tensor.index as usize,
                        buffer: [segment, index],
                        codes: codes..codes + quad * quads,
                        scales: scales as usize..scales as usize + scale_bytes,
                        is_square: optimizer.squares().contains(&moment),
                        first_row: tensor.first_row,
                        whole: if is_whole {
                            share.shape.clone()
                        } else {
                            rows_of(&share.shape, rows)
                        },
                        shape: share.shape,
                    }
                }));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What the optimizer keeps here. What a whole checkpoint has for other ranks is checked too.
    pub(super) fn moments_from(&self, checkpoint: &Checkpoint) -> Result<Vec<Write>> {
        if checkpoint.shard().is_none() && self.is_sharded() {
            for parts in self.moments_of_all().chunk_by(|a, b| a.name == b.name) {
                self.moment_from(checkpoint, &parts[0], &parts[0].whole)?;
            }
        }
        let storage = self.settings.optimizer().moment_storage();
        let mut writes = Vec::new();
        for parts in self.moments_of_tensors().chunk_by(|a, b| a.name == b.name) {
            let Moment { shape, whole, first_row, .. } = &parts[0];
            // A shard has the rows that are here and no others.
            let (whole, first_row) = match checkpoint.origin.shard {
                None => (whole.clone(), 0),
                Some(_) => {
                    let rows = parts.iter().map(|part| part.shape.dims[0]).sum();
                    (rows_of(shape, rows), *first_row)
                }
            };
            let values = self.moment_from(checkpoint, &parts[0], &whole)?;
            for part in parts {
                let Moment { buffer: [segment, index], codes, scales, is_square, shape, .. } = part;
                let start = (part.first_row - first_row) * (shape.count() / shape.dims[0].max(1));
                let dense = &values[start..start + shape.count()];
                let buffer = &self.moments[*segment][*index];
                let bytes = storage.encode(&shape.pad(dense), *is_square);
                let places = [scales, codes].map(|range| range.start as u64);
                let full = places.into_iter().zip(bytes).filter(|(_, bytes)| !bytes.is_empty());
                writes.extend(full.map(|(place, bytes)| (buffer.clone(), place, bytes)));
            }
        }
        Ok(writes)
    }

    /// What a checkpoint has of a moment of a tensor, in this shape: of one that was frozen, nothing
    /// yet.
    fn moment_from<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        Moment { name, moment, tensor, .. }: &Moment,
        shape: &Shape,
    ) -> Result<Cow<'c, [f32]>> {
        let tensor = &self.parameters.specs()[*tensor].name;
        let was_frozen = checkpoint.origin.frozen.lines().any(|frozen| frozen == tensor);
        if was_frozen && !checkpoint.entries.contains_key(name) {
            return Ok(Cow::Owned(vec![0.0; shape.count()]));
        }
        let values = checkpoint.floats(name, &shape.dims)?;
        let negative = values.iter().position(|&value| value < 0.0);
        let is_square = self.settings.optimizer().squares().contains(moment);
        if let Some(index) = negative.filter(|_| is_square) {
            let value = values[index];
            let reason = format!("{name} holds {value} at index {index}: a mean of squares");
            return Err(invalid(reason));
        }
        Ok(Cow::Borrowed(values))
    }
}
