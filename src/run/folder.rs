//! The folder of a run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file;

/// Held locked while a run has the folder. It stays behind: to remove it could take it away from
/// a run that has just begun.
const LOCK: &str = ".lock";

/// A folder that belongs to one run, until it is dropped or its process ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, and claims it. `option` is named in errors.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written, or another run has it.
    pub fn claim(path: &Path, option: &str) -> Result<Self> {
        prepare(path, option)?;
        let file = path.join(LOCK);
        let opened = File::options().create(true).truncate(false).write(true).open(&file);
        let lock = opened.map_err(|error| failed(path, option, &error.to_string()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = format!(
                    "another run is at work in this folder; wait for its end, or choose another \
                     with {option}"
                );
                return Err(Error::File { path: path.to_owned(), reason });
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => {
                return Err(failed(path, option, &format!("no lock: {error}")));
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Makes a folder if need be, and checks that files can be made in it.
///
/// # Errors
/// [`Error::File`] names the option that chooses another.
pub fn prepare(folder: &Path, option: &str) -> Result<()> {
    let made = fs::create_dir_all(folder);
    made.map_err(|error| failed(folder, option, &error.to_string()))?;
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    file::check_writable(&probe).map_err(|error| match error {
        Error::File { reason, .. } => {
            failed(folder, option, reason.trim_start_matches("cannot be written: "))
        }
        other => other,
    })
}

fn failed(path: &Path, option: &str, reason: &str) -> Error {
    let reason = format!("this folder cannot be written ({reason}); choose another with {option}");
    Error::File { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_run() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("deep/run");
        let first = Folder::claim(&path, "--out").expect("claimed");
        assert_eq!(first.file("a"), path.join("a"));
        // By another way.
        let again = path.join("../run");
        let error = Folder::claim(&again, "--out").expect_err("claimed").to_string();
        assert!(error.contains("another run is at work") && error.contains("--out"), "{error}");
        drop(first);
        Folder::claim(&again, "--out").expect("free again");
        assert_eq!(fs::read_dir(&path).expect("a folder").count(), 1);
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("file");
        fs::write(&path, b"a file").expect("written");
        let error = Folder::claim(&path, "--out").expect_err("a file").to_string();
        assert!(error.contains("this folder cannot be written"), "{error}");
        assert_eq!(fs::read(&path).expect("there"), b"a file");
    }
}
