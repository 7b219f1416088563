//! What contents are known again by.

use std::fmt::{Display, Formatter};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use twox_hash::xxhash3_128::Hasher;

use super::read::{metadata, unreadable};
use crate::error::Result;

/// Bytes of a file that are in memory at once.
const PIECE: usize = 1 << 20;

/// A hash of 128 bits (XXH3) of parts one after the other, which shows as 32 hexadecimal digits. It
/// tells other contents, not contents that someone made to have the same hash.
///
/// ```
/// use evenkeel::data::Fingerprint;
///
/// let of = |parts: [&str; 2]| {
///     parts.iter().fold(Fingerprint::new(), |all, part| all.with(part.as_bytes())).to_string()
/// };
/// assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
/// ```
#[derive(Clone)]
pub struct Fingerprint(Hasher);

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

impl Fingerprint {
    /// Of no parts.
    pub fn new() -> Self {
        Self(Hasher::new())
    }

    /// And one part more.
    #[must_use]
    pub fn with(mut self, part: &[u8]) -> Self {
        self.add(part);
        // Where a part ends counts too.
        self.add(&(part.len() as u64).to_le_bytes());
        self
    }

    /// And the contents of a file, some of which are in memory at a time. Its name does not count.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn with_file(mut self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        metadata(path)?;
        let length = self.add_file(path).map_err(|error| unreadable(path, &error))?;
        self.add(&length.to_le_bytes());
        Ok(self)
    }

    fn add_file(&mut self, path: &Path) -> std::io::Result<u64> {
        let (mut file, mut piece, mut length) = (File::open(path)?, vec![0; PIECE], 0);
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(length),
                Ok(read) => {
                    self.add(&piece[..read]);
                    length += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes of a part that goes on.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(super) fn bytes(&self) -> [u8; 16] {
        self.0.finish_128().to_le_bytes()
    }
}

impl Display for Fingerprint {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0.finish_128())
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_as_their_contents() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.bin");
        let contents: Vec<u8> = (0..PIECE + 7).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &contents).expect("written");
        let file = Fingerprint::new().with(b"x").with_file(&path).expect("read");
        let memory = Fingerprint::new().with(b"x").with(&contents);
        assert_eq!(file.to_string(), memory.to_string());
        assert_ne!(file.to_string(), Fingerprint::new().with(&contents).to_string());
        let error = Fingerprint::new().with_file(folder.path()).expect_err("a folder");
        assert!(error.to_string().contains("this is a folder"), "{error}");
        // XXH3 of nothing, as its authors publish it.
        assert_eq!(Fingerprint::new().to_string(), "99aa06d3014798d86001c324468d497f");
    }
}
