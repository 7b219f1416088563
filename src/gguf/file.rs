//! A GGUF file with a model: what is in it, and whether that is what a model is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::config::config;
use super::container::{Container, TensorInfo};
use super::names::{is_derived, rows};
use super::tokenizer::{Tokenizer, tokenizer};
use super::value::Value;
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::hugging_face::{
    Config, Kept, Progress, ReadAt, Reader, Size, Source, Tensor, TensorFiles, TheirTensor,
    all_or_none, invalid, misfit, tensors_by, unreadable,
};
use crate::kernel::BlockFormat;

/// An open GGUF file with a model. Its numbers are read when they are asked for.
#[derive(Debug)]
pub struct File {
    name: String,
    source: Source,
    container: Container,
    config: Config,
}

impl File {
    /// Opens a file. Reads what is in it, but of its tensors no numbers.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) where it cannot be opened;
    /// [`Error::ModelFile`](crate::Error::ModelFile) for one that is damaged, has tensors in formats
    /// that are not among [`Format`](super::Format), or asks for what is not here, with the name of
    /// what is at fault.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|error| crate::Error::File {
            path: path.to_owned(),
            reason: format!("cannot be read: {error}"),
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::read(name, Source::file(file))
    }

    /// The same with the contents of a file, and the name that errors are to call it.
    ///
    /// # Errors
    /// As `File::open`.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self> {
        Self::from_source(name, bytes)
    }

    /// The same with something that is read piece by piece.
    ///
    /// # Errors
    /// As `File::open`.
    pub fn from_source(name: impl Into<String>, source: impl ReadAt + 'static) -> Result<Self> {
        Self::read(name.into(), Source::new(source))
    }

    fn read(name: String, source: Source) -> Result<Self> {
        let container = Container::read(&name, &source)?;
        let numbers = |info: &TensorInfo| elements_of(&name, &source, info, 0..info.count());
        let config = config(&name, &container, numbers)?;
        Ok(Self { name, source, container, config })
    }

    /// The model that its metadata describe, as Hugging Face's transformers has it.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All of its metadata by name.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.container.metadata
    }

    /// What it says of its tokens, if it does.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) that names all that does not fit.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        tokenizer(&self.name, self.metadata())
    }

    /// Its tensors by their names in llama.cpp.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.container.tensors
    }

    /// Some numbers of a tensor, counted along its rows, as the file has them.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) where there is no such tensor, it has fewer, or
    /// they cannot be read.
    pub fn numbers(&self, tensor: &str, range: Range<usize>) -> Result<Vec<f32>> {
        let info = self.info(tensor)?;
        if range.start > range.end || range.end > info.count() {
            let reason = format!("{tensor} {:?} has no numbers {range:?}", info.shape);
            return Err(invalid(&self.name, reason));
        }
        elements_of(&self.name, &self.source, info, range)
    }

    /// The tensors as a source for [`Trainer::load_weights`] or [`Parameters::load`]. It reports
    /// its progress as it reads.
    ///
    /// [`Trainer::load_weights`]: crate::train::Trainer::load_weights
    /// [`Parameters::load`]: crate::plan::Parameters::load
    pub fn reader<F: FnMut(&Progress<'_>)>(&self, progress: F) -> Reader<'_, F> {
        Reader::new(self, progress)
    }

    fn info(&self, tensor: &str) -> Result<&TensorInfo> {
        let missing = || invalid(&self.name, format!("{tensor} is missing"));
        self.tensors().get(tensor).ok_or_else(missing)
    }
}

/// Some numbers of a tensor, out of the blocks that they lie in.
fn elements_of(
    name: &str,
    source: &Source,
    info: &TensorInfo,
    elements: Range<usize>,
) -> Result<Vec<f32>> {
    let (block, bytes) = (info.format.block_elements(), info.format.block_bytes());
    let (first, end) = (elements.start / block, elements.end.div_ceil(block));
    let [start, stop] = [first, end].map(|block| info.start + block as u64 * bytes as u64);
    let blocks = source.read(start..stop).map_err(|error| unreadable(name, &error))?;
    let numbers = info.format.decode(&blocks);
    Ok(part_of(numbers, first * block, elements))
}

/// Those of these elements among all that come after so many.
fn part_of(mut all: Vec<f32>, first: usize, elements: Range<usize>) -> Vec<f32> {
    all.truncate(elements.end - first);
    all.drain(..elements.start - first);
    all
}

impl TensorFiles for File {
    fn file(&self) -> &str {
        &self.name
    }

    fn tensors_of(&self, parameters: &[ParameterSpec]) -> Result<Vec<Tensor>> {
        let family = self.config.family();
        let tensors = tensors_by(rows(family), &self.config, parameters, &self.name)?;
        let (mut problems, mut used) = (Vec::new(), BTreeSet::new());
        for TheirTensor { name, shape, .. } in tensors.iter().flat_map(|tensor| &tensor.theirs) {
            let found = self.tensors().get(name).map(TensorInfo::shape);
            problems.extend(misfit(name, shape, found));
            used.insert(name.clone());
        }
        for (name, info) in self.tensors() {
            if !used.contains(name) && !is_derived(family, name) {
                problems.push(format!("{name} {:?} is not known", info.shape));
            }
        }
        all_or_none(&self.name, problems)?;
        Ok(tensors)
    }

    fn size_of(&self, tensor: &TheirTensor) -> Result<Size> {
        let info = self.info(&tensor.name)?;
        Ok(Size { name: tensor.name.clone(), elements: info.count(), bytes: info.bytes() })
    }

    fn values_of(&self, tensor: &TheirTensor, elements: Range<usize>) -> Result<Vec<f32>> {
        let info = self.info(&tensor.name)?;
        let read = |elements| elements_of(&self.name, &self.source, info, elements);
        match tensor.kept {
            Kept::Same => read(elements),
            Kept::OnePlus => Ok(read(elements)?.into_iter().map(|value| value - 1.0).collect()),
            Kept::Paired { heads } => {
                let head = info.count() / heads;
                let whole = whole_heads(&elements, head);
                let apart = rows_apart(&read(whole.clone())?, head, info.shape[0] / heads);
                Ok(part_of(apart, whole.start, elements))
            }
        }
    }

    fn blocks_of(
        &self,
        tensor: &TheirTensor,
        elements: Range<usize>,
        format: BlockFormat,
    ) -> Result<Option<Vec<u8>>> {
        let info = self.info(&tensor.name)?;
        if info.format.of_weights() != Some(format) || tensor.kept == Kept::OnePlus {
            return Ok(None);
        }
        let bytes = |elements: usize| elements / BlockFormat::ELEMENTS * format.bytes();
        let read = |elements: Range<usize>| {
            let range = [elements.start, elements.end].map(|at| info.start + bytes(at) as u64);
            let read = self.source.read(range[0]..range[1]);
            read.map_err(|error| unreadable(&self.name, &error))
        };
        let Kept::Paired { heads } = tensor.kept else { return read(elements).map(Some) };
        // Rows are made of whole blocks, and move as a whole.
        let head = info.count() / heads;
        let whole = whole_heads(&elements, head);
        let apart = rows_apart(&read(whole.clone())?, bytes(head), info.shape[0] / heads);
        let inside = [elements.start, elements.end].map(|at| bytes(at - whole.start));
        Ok(Some(apart[inside[0]..inside[1]].to_vec()))
    }
}

/// Heads of so many elements that hold these.
fn whole_heads(elements: &Range<usize>, head: usize) -> Range<usize> {
    elements.start / head * head..elements.end.next_multiple_of(head)
}

/// Heads of so many elements or bytes and so many rows, whose rows lie side by side where they turn
/// together, with those half a head apart.
fn rows_apart<T: Copy>(paired: &[T], head: usize, rows: usize) -> Vec<T> {
    let columns = head / rows;
    let mut apart = Vec::with_capacity(paired.len());
    for head in paired.chunks_exact(head) {
        let row = |row| &head[paired_row(row, rows) * columns..][..columns];
        (0..rows).for_each(|at| apart.extend_from_slice(row(at)));
    }
    apart
}

/// The other way round: rows that turn together come to lie side by side.
pub(super) fn rows_together(apart: &[f32], rows: usize) -> Vec<f32> {
    let columns = apart.len() / rows;
    let mut paired = vec![0.0; apart.len()];
    for (at, row) in apart.chunks_exact(columns).enumerate() {
        paired[paired_row(at, rows) * columns..][..columns].copy_from_slice(row);
    }
    paired
}

/// The row of a head of so many where those that turn together lie side by side, for the row where
/// they are half a head apart.
fn paired_row(row: usize, rows: usize) -> usize {
    let half = rows / 2;
    2 * (row % half) + row / half
}
