//! Files of tensors, of which no more is read than is asked for.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use safetensors::tensor::Metadata;

use super::invalid;
use crate::error::Result;

/// The largest header that readers of safetensors accept.
const LARGEST_HEADER: u64 = 100_000_000;

/// Something that is read piece by piece, such as a file: a model of it never lies in memory as a
/// whole. [`Folder::from_sources`](super::Folder::from_sources) and
/// [`gguf::File::from_source`](crate::gguf::File::from_source) take it.
///
/// Natively it can be shared between threads; in pages it need not be.
pub trait ReadAt: Debug + wgpu::WasmNotSendSync {
    /// Bytes that there are.
    ///
    /// # Errors
    /// Whatever keeps it from knowing.
    fn size(&self) -> io::Result<u64>;

    /// Some of them, all of which are there.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// The contents of a file, in memory.
impl ReadAt for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let found = self.get(range.start as usize..range.end as usize);
        found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        (**self).read_at(range)
    }
}

/// An open file, whose position is whoever's has locked it.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug)]
struct OpenFile(std::sync::Mutex<std::fs::File>);

#[cfg(not(target_arch = "wasm32"))]
impl OpenFile {
    fn lock(&self) -> std::sync::MutexGuard<'_, std::fs::File> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl ReadAt for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().metadata()?.len())
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};

        let mut file = self.lock();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The contents of a file.
#[derive(Debug)]
pub(crate) struct Source(Box<dyn ReadAt>);

impl Source {
    pub fn new(source: impl ReadAt + 'static) -> Self {
        Self(Box::new(source))
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn file(file: std::fs::File) -> Self {
        Self::new(OpenFile(std::sync::Mutex::new(file)))
    }

    pub fn length(&self) -> io::Result<u64> {
        self.0.size()
    }

    /// Some bytes, all of which there must be.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let count = range.end - range.start;
        let bytes = self.0.read_at(range)?;
        // What somebody else reads may be less, where a file has become shorter meanwhile.
        if bytes.len() as u64 == count {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// The whole as text, of a file with this name.
    pub fn text(&self, name: &str) -> Result<String> {
        let all = self.length().and_then(|length| self.read(0..length));
        let all = all.map_err(|error| unreadable(name, &error))?;
        String::from_utf8(all).map_err(|error| invalid(name, error.to_string()))
    }
}

pub(crate) fn unreadable(name: &str, error: &io::Error) -> crate::Error {
    invalid(name, format!("cannot be read: {error}"))
}

/// A safetensors file.
#[derive(Debug)]
pub(super) struct TensorFile {
    /// Its name in the folder.
    pub name: String,
    source: Source,
    /// Where the numbers begin.
    start: u64,
}

impl TensorFile {
    /// Reads what is in it, but no numbers.
    pub fn new(name: &str, source: Source) -> Result<(Self, Metadata)> {
        let length = source.length().map_err(|error| unreadable(name, &error))?;
        let cut = || {
            invalid(name, format!("it is no safetensors file, or a part of one: {length} bytes"))
        };
        if length < 8 {
            return Err(cut());
        }
        let read = |range| source.read(range).map_err(|error| unreadable(name, &error));
        let prefix = read(0..8)?;
        let header = u64::from_le_bytes(prefix.try_into().expect("8 bytes"));
        if header > LARGEST_HEADER || 8 + header > length {
            return Err(cut());
        }
        let start = 8 + header;
        let metadata: Metadata = serde_json::from_slice(&read(8..start)?)
            .map_err(|error| invalid(name, format!("its header: {error}")))?;
        let wanted = start + metadata.data_len() as u64;
        if wanted != length {
            let reason = format!("it has {length} bytes, and {wanted} by its header; get it again");
            return Err(invalid(name, reason));
        }
        Ok((Self { name: name.to_owned(), source, start }, metadata))
    }

    /// Some bytes of the numbers.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let range = self.start + range.start..self.start + range.end;
        self.source.read(range).map_err(|error| unreadable(&self.name, &error))
    }
}
