//! From the files of a folder to parameters, some rows at a time.

use std::collections::BTreeMap;
use std::ops::Range;

use super::folder::{SINGLE, Stored};
use super::names::Tensor;
use super::{Folder, TheirTensor, all_or_none, invalid};
use crate::error::Result;
use crate::plan::Parameters;
use crate::plan::parameters::WeightSource;

/// Elements that are looked at at once.
const PIECE: usize = 1 << 22;

/// How far the reading of a folder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The tensor that is read, as the folder has it.
    pub tensor: &'a str,
    /// Bytes that were read so far.
    pub bytes: u64,
    /// Bytes that will have been read: all tensors are read twice, once to look for what is not
    /// finite before anything is changed.
    pub total: u64,
}

/// The tensors of a [`Folder`] as a source of weights.
#[derive(Debug)]
pub struct Reader<'a, F> {
    folder: &'a Folder,
    /// By the name of the parameter; none before they were checked.
    tensors: BTreeMap<String, Tensor>,
    progress: F,
    bytes: u64,
    total: u64,
}

impl<'a, F: FnMut(&Progress<'_>)> Reader<'a, F> {
    pub(super) fn new(folder: &'a Folder, progress: F) -> Self {
        Self { folder, tensors: BTreeMap::new(), progress, bytes: 0, total: 0 }
    }

    fn values(&mut self, name: &str, stored: &Stored, elements: Range<usize>) -> Result<Vec<f32>> {
        let share = stored.bytes() / stored.count() as u64;
        self.bytes += elements.len() as u64 * share;
        let values = self.folder.values(stored, elements)?;
        let Self { bytes, total, .. } = *self;
        // A transposed tensor that comes in pieces is read once for each.
        (self.progress)(&Progress { tensor: name, bytes: bytes.min(total), total });
        Ok(values)
    }

    /// What no parameter can hold among the values of a tensor, in words.
    fn fault(&mut self, tensor: &TheirTensor, parameters: &Parameters) -> Result<Option<String>> {
        let (name, stored) = self.stored(tensor)?;
        let (mut first, mut count) = (None, 0);
        for elements in ranges(stored.count()) {
            let start = elements.start;
            let values = self.values(&name, stored, elements)?;
            let faults =
                values.iter().enumerate().filter(|(_, value)| !parameters.can_hold(**value));
            for (index, &value) in faults {
                first = first.or(Some((start + index, value)));
                count += 1;
            }
        }
        let storage = parameters.storage();
        Ok(first.map(|(index, value)| match count {
            1 => format!("{name} holds {value} at index {index}, for weights in {storage}"),
            _ => format!(
                "{name} holds {value} at index {index}, the first of {count} such, for weights in \
                 {storage}"
            ),
        }))
    }

    fn stored(&self, tensor: &TheirTensor) -> Result<(String, &'a Stored)> {
        let missing = || invalid(SINGLE, format!("{} is missing", tensor.name));
        self.folder.stored(tensor).ok_or_else(missing)
    }

    /// What is wrong with a second copy of the embedding, in words.
    fn copy_fault(&self) -> Result<Option<String>> {
        let Some([(head, copy), (embedding, stored)]) = self.folder.tied_copy() else {
            return Ok(None);
        };
        let is_same = copy.shape == stored.shape && {
            let mut is_same = true;
            for elements in ranges(stored.count()) {
                let [ours, theirs] = [
                    self.folder.values(stored, elements.clone())?,
                    self.folder.values(copy, elements)?,
                ];
                // As bits, since zeros of both signs are equal.
                let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits);
                is_same = is_same && bits(ours).eq(bits(theirs));
            }
            is_same
        };
        let reason = format!(
            "{head} is not the same as {embedding}, and the configuration has one table for both; \
             set tie_word_embeddings to false for a head of its own"
        );
        Ok((!is_same).then_some(reason))
    }
}

/// All elements in pieces.
fn ranges(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(PIECE).map(move |first| first..count.min(first + PIECE))
}

impl<F: FnMut(&Progress<'_>)> WeightSource for Reader<'_, F> {
    fn check(&mut self, parameters: &Parameters) -> Result<()> {
        let tensors = self.folder.tensors_of(parameters.specs())?;
        let mut bytes = 0;
        for theirs in tensors.iter().flat_map(|tensor| &tensor.theirs) {
            bytes += self.stored(theirs)?.1.bytes();
        }
        (self.bytes, self.total) = (0, 2 * bytes);
        let mut problems = Vec::new();
        for theirs in tensors.iter().flat_map(|tensor| &tensor.theirs) {
            problems.extend(self.fault(theirs, parameters)?);
        }
        problems.extend(self.copy_fault()?);
        all_or_none(SINGLE, problems)?;
        self.tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Ok(())
    }

    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let Some(tensor) = self.tensors.get(name).cloned() else {
            return Err(invalid(SINGLE, format!("nothing was checked for {name}")));
        };
        let columns: usize = tensor.shape[1..].iter().product();
        let mut values = Vec::with_capacity(rows.len() * columns);
        for theirs in &tensor.theirs {
            let inside = rows.start.max(theirs.rows.start)..rows.end.min(theirs.rows.end);
            if inside.is_empty() {
                continue;
            }
            let (name, stored) = self.stored(theirs)?;
            let [first, end] = [inside.start, inside.end].map(|row| row - theirs.rows.start);
            if tensor.is_transposed {
                let whole = self.values(&name, stored, 0..stored.count())?;
                let height = theirs.rows.len();
                let row = |row| (0..columns).map(move |column| column * height + row);
                values.extend((first..end).flat_map(row).map(|index| whole[index]));
            } else {
                values.extend(self.values(&name, stored, first * columns..end * columns)?);
            }
        }
        Ok(values)
    }
}
