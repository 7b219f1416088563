//! Files of tensors, of which no more is read than is asked for.

use std::io;
#[cfg(not(target_arch = "wasm32"))]
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
#[cfg(not(target_arch = "wasm32"))]
use std::{
    fs::File,
    sync::{Mutex, PoisonError},
};

use safetensors::tensor::Metadata;

use super::invalid;
use crate::error::Result;

/// The largest header that readers of safetensors accept.
const LARGEST_HEADER: u64 = 100_000_000;

/// The contents of a file.
#[derive(Debug)]
pub(crate) enum Source {
    /// All of them.
    Memory(Vec<u8>),
    /// An open file, whose position is whoever's has locked it.
    #[cfg(not(target_arch = "wasm32"))]
    File(Mutex<File>),
}

impl Source {
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            #[cfg(not(target_arch = "wasm32"))]
            Self::File(file) => {
                let file = file.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(file.metadata()?.len())
            }
        }
    }

    /// Some bytes, all of which there must be.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes) => {
                let found = bytes.get(range.start as usize..range.end as usize);
                found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            #[cfg(not(target_arch = "wasm32"))]
            Self::File(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.seek(SeekFrom::Start(range.start))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            }
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
