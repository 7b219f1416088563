//! From files of tensors to parameters, some rows at a time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use super::names::Tensor;
use super::{TheirTensor, all_or_none, invalid};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernel::BlockFormat;
use crate::nn::lora::is_adapter;
use crate::plan::Parameters;
use crate::plan::parameters::WeightSource;

/// Elements that are looked at at once.
const PIECE: usize = 1 << 22;

/// Files with the tensors of a model.
pub(crate) trait TensorFiles: Debug + wgpu::WasmNotSendSync {
    /// The one that errors name.
    fn file(&self) -> &str;

    /// The tensors that these parameters are made of, all of which are there as they should be.
    ///
    /// # Errors
    /// One that names all that are missing, of another shape or type, or not known.
    fn tensors_of(&self, parameters: &[ParameterSpec]) -> Result<Vec<Tensor>>;

    /// What a tensor is there.
    ///
    /// # Errors
    /// Where it is not.
    fn size_of(&self, tensor: &TheirTensor) -> Result<Size>;

    /// Some elements of a tensor, as the parameter has them.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn values_of(&self, tensor: &TheirTensor, elements: Range<usize>) -> Result<Vec<f32>>;

    /// Some elements of a tensor, which begin and end with blocks, in blocks of this format; `None`
    /// where it does not lie in these.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn blocks_of(
        &self,
        tensor: &TheirTensor,
        elements: Range<usize>,
        format: BlockFormat,
    ) -> Result<Option<Vec<u8>>> {
        let _ = (tensor, elements, format);
        Ok(None)
    }

    /// What else is wrong with the numbers, in words.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn fault(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// What a tensor is in its file.
#[derive(Debug)]
pub(crate) struct Size {
    pub name: String,
    pub elements: usize,
    pub bytes: u64,
}

impl Size {
    /// Those of some of its elements.
    fn bytes_of(&self, elements: usize) -> u64 {
        (u128::from(self.bytes) * elements as u128 / self.elements as u128) as u64
    }
}

/// How far the reading of a model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The tensor that is read, as the file has it.
    pub tensor: &'a str,
    /// Bytes that were read so far.
    pub bytes: u64,
    /// Bytes that will have been read: all tensors are read twice, once to look for what is not
    /// finite before anything is changed.
    pub total: u64,
}

/// The tensors of a [`Folder`](super::Folder) or a [`gguf::File`](crate::gguf::File) as a source of
/// weights.
#[derive(Debug)]
pub struct Reader<'a, F> {
    files: &'a dyn TensorFiles,
    /// By the name of the parameter; none before they were checked.
    tensors: BTreeMap<String, Tensor>,
    progress: F,
    bytes: u64,
    total: u64,
}

impl<'a, F: FnMut(&Progress<'_>)> Reader<'a, F> {
    pub(crate) fn new(files: &'a dyn TensorFiles, progress: F) -> Self {
        Self { files, tensors: BTreeMap::new(), progress, bytes: 0, total: 0 }
    }

    fn values(
        &mut self,
        tensor: &TheirTensor,
        size: &Size,
        elements: Range<usize>,
    ) -> Result<Vec<f32>> {
        let count = elements.len();
        let values = self.files.values_of(tensor, elements)?;
        self.advance(size, count);
        Ok(values)
    }

    /// Tells that so many elements of a tensor were read.
    fn advance(&mut self, size: &Size, elements: usize) {
        self.bytes += size.bytes_of(elements);
        let Self { bytes, total, .. } = *self;
        // A transposed tensor that comes in pieces is read once for each.
        (self.progress)(&Progress { tensor: &size.name, bytes: bytes.min(total), total });
    }

    fn checked(&self, name: &str) -> Result<Tensor> {
        let missing = || invalid(self.files.file(), format!("nothing was checked for {name}"));
        self.tensors.get(name).cloned().ok_or_else(missing)
    }

    /// Some rows of one of the tensors that a parameter is made of, as the parameter has them.
    fn values_in(
        &mut self,
        tensor: &Tensor,
        theirs: &TheirTensor,
        rows: Range<usize>,
    ) -> Result<Vec<f32>> {
        let (size, columns) = (self.files.size_of(theirs)?, tensor.columns());
        if !tensor.is_transposed {
            return self.values(theirs, &size, rows.start * columns..rows.end * columns);
        }
        let whole = self.values(theirs, &size, 0..size.elements)?;
        let height = theirs.rows.len();
        let row = |row| (0..columns).map(move |column| column * height + row);
        Ok(rows.flat_map(row).map(|index| whole[index]).collect())
    }

    /// What the parameter cannot hold among the values of a tensor that it is made of, in words.
    fn fault(
        &mut self,
        parameter: &str,
        tensor: &TheirTensor,
        parameters: &Parameters,
    ) -> Result<Option<String>> {
        let size = self.files.size_of(tensor)?;
        let format = parameters.format_of(parameter);
        // What is in such blocks already stays as it is.
        let is_kept = match format {
            Some(format) => self.files.blocks_of(tensor, 0..0, format)?.is_some(),
            None => false,
        };
        let can_hold = |value: f32| match format {
            Some(_) if is_kept => value.is_finite(),
            Some(format) => value.abs() <= format.largest(),
            None => parameters.can_hold(value),
        };
        let (mut first, mut count) = (None, 0);
        for elements in ranges(size.elements) {
            let start = elements.start;
            let values = self.values(tensor, &size, elements)?;
            let faults = values.iter().enumerate().filter(|(_, value)| !can_hold(**value));
            for (index, &value) in faults {
                first = first.or(Some((start + index, value)));
                count += 1;
            }
        }
        let name = &size.name;
        let storage = format.map_or(parameters.storage().to_string(), |f| f.to_string());
        Ok(first.map(|(index, value)| match count {
            1 => format!("{name} holds {value} at index {index}, for weights in {storage}"),
            _ => format!(
                "{name} holds {value} at index {index}, the first of {count} such, for weights in \
                 {storage}"
            ),
        }))
    }
}

/// All elements in pieces.
pub(super) fn ranges(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(PIECE).map(move |first| first..count.min(first + PIECE))
}

impl<F: FnMut(&Progress<'_>)> WeightSource for Reader<'_, F> {
    fn check(&mut self, parameters: &Parameters) -> Result<()> {
        let own = parameters.specs().iter().filter(|spec| !is_adapter(&spec.name));
        let tensors = self.files.tensors_of(&own.cloned().collect::<Vec<_>>())?;
        let mut bytes = 0;
        for theirs in tensors.iter().flat_map(|tensor| &tensor.theirs) {
            bytes += self.files.size_of(theirs)?.bytes;
        }
        (self.bytes, self.total) = (0, 2 * bytes);
        let mut problems = Vec::new();
        for Tensor { name, theirs, .. } in &tensors {
            for theirs in theirs {
                problems.extend(self.fault(name, theirs, parameters)?);
            }
        }
        problems.extend(self.files.fault()?);
        all_or_none(self.files.file(), problems)?;
        self.tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Ok(())
    }

    /// All but adapters.
    fn provides(&self, name: &str) -> bool {
        !is_adapter(name)
    }

    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let tensor = self.checked(name)?;
        let mut values = Vec::with_capacity(rows.len() * tensor.columns());
        for (theirs, inside) in tensor.shares(rows) {
            values.extend(self.values_in(&tensor, theirs, inside)?);
        }
        Ok(values)
    }

    fn blocks(&mut self, name: &str, rows: Range<usize>, format: BlockFormat) -> Result<Vec<u8>> {
        let (tensor, mut blocks) = (self.checked(name)?, Vec::new());
        let columns = tensor.columns();
        for (theirs, inside) in tensor.shares(rows) {
            let elements = inside.start * columns..inside.end * columns;
            let kept = match tensor.is_transposed {
                true => None,
                false => self.files.blocks_of(theirs, elements.clone(), format)?,
            };
            if let Some(kept) = kept {
                self.advance(&self.files.size_of(theirs)?, elements.len());
                blocks.extend(kept);
            } else {
                blocks.extend(format.encode(&self.values_in(&tensor, theirs, inside)?));
            }
        }
        Ok(blocks)
    }
}
