//! Files that are whole at every moment: a program may end between any two instructions, and the
//! disk may be full.
//!
//! [`replace`] puts new contents in the place of a file: who reads it finds the old contents or the
//! new ones, also after a crash. A [`LogFile`] grows by whole pieces. Both leave what is there alone
//! until there is something to put in its place, follow symbolic links to the file that they name,
//! and write to what is no regular file (a pipe, `/dev/null`) as it is.

mod log;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use log::LogFile;

use crate::error::{Error, Result};

/// Links that are followed from one name; as many as Linux does.
const LINKS: usize = 40;

/// Writes a file beside the old one, makes sure that it is on the disk, and gives it the old one's
/// name. Its permissions stay. Meanwhile it is called as the old one with `.evenkeel-new` behind it.
///
/// ```no_run
/// # use evenkeel::train::{Model, Trainer};
/// # async fn save<M: Model>(trainer: &Trainer<M>) -> evenkeel::Result<()> {
/// evenkeel::file::replace("run.safetensors", &trainer.checkpoint().await?.to_bytes())
/// # }
/// ```
///
/// # Errors
/// [`Error::File`]; the old file is there as it was.
pub fn replace(path: impl AsRef<Path>, contents: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_beside(path, contents)
        .and_then(|beside| beside.put_in_place())
        .map_err(|error| write_failed(path, &error))
}

/// Makes sure that a file can be written, and leaves it as it is.
///
/// # Errors
/// [`Error::File`], also for a file that is marked read-only.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    check(path).map_err(|error| write_failed(path, &error))
}

fn check(path: &Path) -> io::Result<()> {
    // To open a pipe is to wait for who reads it.
    if fs::metadata(path).is_ok_and(|found| is_pipe(&found)) {
        return Ok(());
    }
    match writable(path)? {
        Existing::Special(_) => Ok(()),
        Existing::Regular | Existing::None => Beside::create(path).map(drop),
    }
}

/// The file that a name stands for, after all symbolic links, also where it is not there yet.
///
/// # Errors
/// Where there is no such folder.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            Err(_) => return resolve_folder(&path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

fn resolve_folder(path: &Path) -> io::Result<PathBuf> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    Ok(folder_of(path).canonicalize()?.join(name))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(crate) fn write_failed(path: &Path, error: &io::Error) -> Error {
    Error::File { path: path.to_owned(), reason: format!("cannot be written: {error}") }
}

/// What is to be written over.
enum Existing {
    None,
    Regular,
    /// A pipe or a device: it cannot be replaced, only written to.
    Special(File),
}

/// Looks at what is there, and fails where it must not be written.
fn writable(path: &Path) -> io::Result<Existing> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Existing::None),
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // A file may be replaced where only its folder can be written, or by root. Whoever made it
    // read-only did not mean that.
    if metadata.permissions().readonly() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is read-only"));
    }
    let file = File::options().append(true).open(path)?;
    Ok(if metadata.is_file() { Existing::Regular } else { Existing::Special(file) })
}

/// A new file beside the one whose place it will take; gone where it does not come to that.
#[derive(Debug)]
struct Beside {
    file: Option<File>,
    new: PathBuf,
    target: PathBuf,
}

impl Beside {
    fn create(path: &Path) -> io::Result<Self> {
        let target = resolve(path)?;
        let mut name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(".evenkeel-new");
        let new = target.with_file_name(name);
        if let Ok(left) = File::options().append(true).open(&new) {
            // By a program that was killed, or by one that is still at it.
            lock(&left)?;
            fs::remove_file(&new)?;
        }
        let file = File::options().append(true).create_new(true).open(&new)?;
        lock(&file)?;
        if let Ok(old) = fs::metadata(&target) {
            file.set_permissions(old.permissions())?;
        }
        Ok(Self { file: Some(file), new, target })
    }

    /// Gives the file its name, and makes sure that it keeps it.
    fn put_in_place(mut self) -> io::Result<()> {
        self.rename().map(drop)
    }

    fn rename(&mut self) -> io::Result<Option<File>> {
        let Some(file) = self.file.take() else { return Ok(None) };
        let renamed = file.sync_all().and_then(|()| fs::rename(&self.new, &self.target));
        if let Err(error) = renamed {
            drop(file);
            drop(fs::remove_file(&self.new));
            return Err(error);
        }
        sync_folder(folder_of(&self.target))?;
        Ok(Some(file))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            drop(fs::remove_file(&self.new));
        }
    }
}

/// A file that is written piece by piece, and takes the place of the old one once it is whole.
#[derive(Debug)]
pub(crate) struct Replacement {
    beside: Beside,
    path: PathBuf,
}

impl Replacement {
    /// Begins a file beside the old one.
    ///
    /// # Errors
    /// [`Error::File`], also for what is no regular file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let create = || match writable(path)? {
            Existing::Special(_) => Err(io::Error::other("it is no regular file")),
            Existing::Regular | Existing::None => Beside::create(path),
        };
        let beside = create().map_err(|error| write_failed(path, &error))?;
        Ok(Self { beside, path: path.to_owned() })
    }

    /// More of its contents.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn write(&mut self, contents: &[u8]) -> Result<()> {
        let file = self.beside.file.as_mut().expect("not yet in place");
        file.write_all(contents).map_err(|error| write_failed(&self.path, &error))
    }

    /// Gives it the old one's name.
    ///
    /// # Errors
    /// [`Error::File`]; the old file is there as it was.
    pub(crate) fn put_in_place(self) -> Result<()> {
        self.beside.put_in_place().map_err(|error| write_failed(&self.path, &error))
    }
}

/// Writes all of a file, but does not give it its name yet. What cannot be replaced is written to
/// at once.
fn write_beside(path: &Path, contents: &[u8]) -> io::Result<Beside> {
    if let Existing::Special(mut file) = writable(path)? {
        file.write_all(contents)?;
        return Ok(Beside { file: None, new: PathBuf::new(), target: PathBuf::new() });
    }
    let mut beside = Beside::create(path)?;
    beside.file.as_mut().expect("just made").write_all(contents)?;
    Ok(beside)
}

/// As [`replace`], with the old file kept under another name.
///
/// # Errors
/// [`Error::File`]; the old file still has its name.
pub fn replace_and_keep(path: &Path, contents: &[u8], previous: &Path) -> Result<()> {
    let exchange = || {
        let beside = write_beside(path, contents)?;
        beside.file.as_ref().map_or(Ok(()), File::sync_all)?;
        if path.is_file() {
            give_second_name(path, previous)?;
        }
        beside.put_in_place()
    };
    exchange().map_err(|error: io::Error| write_failed(path, &error))
}

/// At every moment the file has its first name; where the file system knows no second ones, it
/// moves.
fn give_second_name(path: &Path, second: &Path) -> io::Result<()> {
    let mut name = second.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    name.push(".evenkeel-new");
    let new = second.with_file_name(name);
    drop(fs::remove_file(&new));
    match fs::hard_link(path, &new) {
        Ok(()) => fs::rename(&new, second),
        Err(_) => fs::rename(path, second),
    }
}

/// Holds a file for as long as it is open, against other processes and other openings in this one.
fn lock(file: &File) -> io::Result<()> {
    if cfg!(not(unix)) {
        // A lock would keep others from reading.
        return Ok(());
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another run writes it; choose another",
        )),
        // Not all file systems have locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

#[cfg(unix)]
fn is_pipe(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type())
}

/// Elsewhere pipes have no names among the files.
#[cfg(not(unix))]
fn is_pipe(_: &fs::Metadata) -> bool {
    false
}

/// A rename is on the disk once the folder is.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere folders cannot be opened.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.bin");
        fs::write(&path, b"old").expect("written");
        let beside = write_beside(&path, b"new, and longer").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        drop(beside);
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);

        // What an ended program left behind is no hindrance.
        fs::write(folder.path().join("a.bin.evenkeel-new"), b"half a fi").expect("written");
        replace(&path, b"new").expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        replace_and_keep(&path, b"newer", &folder.path().join("b.bin")).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"newer");
        assert_eq!(fs::read(folder.path().join("b.bin")).expect("there"), b"new");
        assert_eq!(names(folder.path()), ["a.bin", "b.bin"]);
    }

    #[test]
    fn what_cannot_be_written_is_said_and_left() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().to_owned(), folder.path().join("none/a.bin")] {
            let error = check_writable(&path).expect_err("not writable").to_string();
            assert!(error.contains("cannot be written"), "{error}");
            assert!(replace(&path, b"new").is_err());
        }
        let path = folder.path().join("a.bin");
        check_writable(&path).expect("a new file");
        assert!(!path.exists());
        fs::write(&path, b"old").expect("written");
        let permissions = fs::metadata(&path).expect("there").permissions();
        let mut read_only = permissions.clone();
        read_only.set_readonly(true);
        fs::set_permissions(&path, read_only).expect("set");
        let error = replace(&path, b"new").expect_err("read-only").to_string();
        assert!(error.contains("it is read-only"), "{error}");
        fs::set_permissions(&path, permissions).expect("set");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay_and_devices_are_written_to() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().expect("a folder");
        let [path, link, dangling] = ["a.bin", "link", "dangling"].map(|n| folder.path().join(n));
        fs::write(&path, b"old").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        symlink("a.bin", &link).expect("linked");
        replace(&link, b"new").expect("replaced");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).expect("there"), b"new");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        symlink("later.bin", &dangling).expect("linked");
        replace(&dangling, b"new").expect("made");
        assert_eq!(fs::read(folder.path().join("later.bin")).expect("there"), b"new");

        replace("/dev/null", b"gone").expect("written");
        assert!(!fs::metadata("/dev/null").expect("there").is_file());
        if cfg!(target_os = "linux") {
            assert!(replace("/dev/full", b"no room").is_err());
        }
    }
}
