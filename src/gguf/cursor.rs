//! The front of a file, read in order, of which nothing is allocated before it is there.

use crate::error::{Error, Result};
use crate::hugging_face::{Source, invalid, unreadable};

/// Bytes that are read from the file at once.
const CHUNK: u64 = 1 << 16;

/// A file that is read in order. What is asked for has a name, for errors.
pub(super) struct Cursor<'a> {
    file: &'a str,
    source: &'a Source,
    length: u64,
    /// The next byte.
    at: u64,
    chunk: Vec<u8>,
    /// Where that begins.
    chunk_start: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(file: &'a str, source: &'a Source) -> Result<Self> {
        let length = source.length().map_err(|error| unreadable(file, &error))?;
        Ok(Self { file, source, length, at: 0, chunk: Vec::new(), chunk_start: 0 })
    }

    /// Bytes of the whole file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes in front of the next one.
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn invalid(&self, reason: impl Into<String>) -> Error {
        invalid(self.file, reason)
    }

    /// The next bytes.
    pub fn take(&mut self, count: u64, what: &str) -> Result<&[u8]> {
        let left = self.length - self.at;
        if count > left {
            return Err(self.cut(what, &count.to_string()));
        }
        let end = self.at + count;
        if end > self.chunk_start + self.chunk.len() as u64 {
            let range = self.at..self.at + count.max(CHUNK).min(left);
            let chunk = self.source.read(range).map_err(|error| unreadable(self.file, &error))?;
            (self.chunk, self.chunk_start) = (chunk, self.at);
        }
        let start = (self.at - self.chunk_start) as usize;
        self.at = end;
        Ok(&self.chunk[start..start + count as usize])
    }

    fn cut(&self, what: &str, wanted: &str) -> Error {
        let (length, left) = (self.length, self.length - self.at);
        self.invalid(format!(
            "it is cut off, or damaged, at {what}: of {length} bytes {left} are left, and {wanted} \
             wanted; get it again"
        ))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    /// The number of things that follow, each of at least so many bytes, so that they can be there.
    pub fn count(&mut self, what: &str, smallest: u64) -> Result<u64> {
        let count = self.u64(what)?;
        let bytes = count.checked_mul(smallest);
        if bytes.is_none_or(|bytes| bytes > self.length - self.at) {
            return Err(self.cut(what, &format!("{count} times {smallest} at least are")));
        }
        Ok(count)
    }

    /// A text with its length in front.
    pub fn text(&mut self, what: &str) -> Result<String> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.invalid(format!("{what} is no text in UTF-8")))
    }
}
