//! Files that texts come from.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The most bytes of a text, 2 GiB: beside them are their characters, and four bytes a token.
pub const LARGEST: u64 = 1 << 31;

/// The contents of a file or a pipe.
///
/// # Errors
/// [`Error::File`] where it cannot be read, is a folder or a device, or is larger than [`LARGEST`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    read_at_most(path.as_ref(), LARGEST)
}

/// What is known of a file or a pipe before it is opened: to open a device may do something.
pub(super) fn metadata(path: &Path) -> Result<Metadata> {
    let refuse = |reason: String| Error::File { path: path.to_owned(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        return Err(refuse("this is a folder; give a file with a text".into()));
    }
    if is_device(&metadata) {
        return Err(refuse("this is a device; give a file with a text".into()));
    }
    Ok(metadata)
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.to_owned(), reason: format!("the text cannot be read: {error}") }
}

fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let refuse = |reason: String| Error::File { path: path.to_owned(), reason };
    let unreadable = |error| unreadable(path, &error);
    let metadata = metadata(path)?;
    let large = |size: String| {
        refuse(format!("the text has {size} bytes; a text of at most {most} can be learned"))
    };
    if metadata.len() > most {
        return Err(large(metadata.len().to_string()));
    }
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(metadata.len() as usize + 1);
    reserved.map_err(|error| refuse(format!("the text does not fit in memory: {error}")))?;
    // A pipe, or a file that grows, says only at its end how long it is.
    let file = File::open(path).map_err(unreadable)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(large(format!("more than {most}")));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn is_device(metadata: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
}

/// Elsewhere devices are no files.
#[cfg(not(unix))]
fn is_device(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, part: &str) {
        let error = read(path).expect_err("nothing to read").to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains(part), "{error} lacks {part:?}");
    }

    #[test]
    fn what_is_no_file_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        refused(folder.path(), "this is a folder");
        refused(&folder.path().join("none"), "the text cannot be read");
        if cfg!(unix) {
            refused(Path::new("/dev/zero"), "this is a device");
        }
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("huge.txt");
        // A hole: no byte of it is on the disk.
        File::create(&path).and_then(|file| file.set_len(100 << 30)).expect("a sparse file");
        refused(&path, "the text has 107374182400 bytes; a text of at most 2147483648");

        std::fs::write(&path, b"twelve bytes").expect("written");
        assert_eq!(read_at_most(&path, 12).expect("it fits"), b"twelve bytes");
        assert!(read_at_most(&path, 11).is_err());
    }
}
