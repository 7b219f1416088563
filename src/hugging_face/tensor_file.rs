//! A safetensors file by itself: what is in it, of any type, and its bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::files::{Source, TensorFile};
use super::invalid;
use crate::error::{Error, Result};

/// A tensor of a [`SafetensorsFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    start: u64,
}

impl StoredTensor {
    /// How many numbers it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        (self.count() as u64 * self.dtype.bitsize() as u64).div_ceil(8)
    }
}

/// An open safetensors file, whatever it is of: a model, an adapter, a checkpoint. Its numbers are read
/// when they are asked for.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: TensorFile,
    metadata: BTreeMap<String, String>,
    tensors: Vec<StoredTensor>,
}

impl SafetensorsFile {
    /// Opens a file. Reads what is in it, but no numbers.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be opened, [`Error::ModelFile`] where it is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|error| Error::File {
            path: path.to_owned(),
            reason: format!("cannot be read: {error}"),
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let (file, metadata) = TensorFile::new(&name, Source::file(file))?;
        let tensor = |(name, info): (String, &TensorInfo)| {
            let TensorInfo { dtype, shape, data_offsets: (start, _) } = info.clone();
            StoredTensor { name, dtype, shape, start: start as u64 }
        };
        let mut tensors: Vec<_> = metadata.tensors().into_iter().map(tensor).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { file, metadata, tensors })
    }

    /// What the file says of itself beside its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Its tensors, by name in order.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Some bytes of one of its tensors, little-endian.
    ///
    /// # Errors
    /// [`Error::ModelFile`] where it has fewer, or they cannot be read.
    pub fn read(&self, tensor: &StoredTensor, bytes: Range<u64>) -> Result<Vec<u8>> {
        if bytes.start > bytes.end || bytes.end > tensor.bytes() {
            let reason = format!("{} has no bytes {bytes:?}", tensor.name);
            return Err(invalid(&self.file.name, reason));
        }
        self.file.read(tensor.start + bytes.start..tensor.start + bytes.end)
    }
}
