//! A file that grows.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Beside, Existing, lock, writable, write_failed};
use crate::error::Result;

/// What is kept of pieces that cannot be written, in bytes: more than ten thousand records.
const PENDING: usize = 1 << 24;

/// A file that pieces are written to as they come: lines, rows, frames.
///
/// An earlier file stays as it is until the first piece; then the new one takes its place. A piece
/// is in the file as a whole or not at all: where one cannot be written (the disk is full), what
/// there is of it is cut off, it is kept, and the next write tries to write both. While one process
/// has it open, no other can (on Unix).
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    state: State,
    pending: Vec<u8>,
    lost: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing is written yet.
    New { beside: Beside, _old: Option<File> },
    /// The file, and the length up to which it is whole.
    Open { file: File, length: u64 },
    /// The file is to be cut to this length first.
    Cut { file: File, length: u64 },
    /// A pipe or a device.
    Special(File),
    /// A pipe that nobody reads any more.
    Closed,
}

impl LogFile {
    /// Begins a file, over an earlier one once there is a piece.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if it cannot be written, or another process writes it.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(path.as_ref(), |path, old| {
            let (old, beside) = (old.map(open).transpose()?, Beside::create(path)?);
            Ok(State::New { beside, _old: old })
        })
    }

    /// Goes on with a file behind its first `length` bytes. What follows them stays until there is
    /// a piece.
    ///
    /// # Errors
    /// As [`create`](Self::create), and where the file is not there.
    pub fn resume(path: impl AsRef<Path>, length: u64) -> Result<Self> {
        Self::open(path.as_ref(), |path, _| Ok(State::Cut { file: open(path)?, length }))
    }

    fn open(
        path: &Path,
        regular: impl FnOnce(&Path, Option<&Path>) -> io::Result<State>,
    ) -> Result<Self> {
        let state = writable(path).and_then(|existing| match existing {
            Existing::Special(file) => Ok(State::Special(file)),
            Existing::Regular => regular(path, Some(path)),
            Existing::None => regular(path, None),
        });
        let state = state.map_err(|error| write_failed(path, &error))?;
        Ok(Self { path: path.to_owned(), state, pending: Vec::new(), lost: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all that is pending, as a whole.
    fn drain(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::New { beside, .. } => {
                if beside.file.is_none() {
                    // It did not come to its place the last time.
                    *beside = Beside::create(&self.path)?;
                }
                let file = beside.file.as_mut().expect("just made");
                if let Err(error) = file.write_all(&self.pending) {
                    cut(file, &beside.new, 0)?;
                    return Err(error);
                }
                let renamed = beside.rename()?;
                let (file, length) = (renamed.expect("not renamed before"), self.pending.len());
                self.state = State::Open { file, length: length as u64 };
            }
            State::Cut { file, length } => {
                cut(file, &self.path, *length)?;
                let (file, length) = (file.try_clone()?, *length);
                self.state = State::Open { file, length };
                return self.drain();
            }
            State::Open { file, length } => {
                if let Err(error) = file.write_all(&self.pending) {
                    cut(file, &self.path, *length)?;
                    return Err(error);
                }
                *length += self.pending.len() as u64;
            }
            State::Special(file) => match file.write_all(&self.pending) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.state = State::Closed;
                }
                other => other?,
            },
            State::Closed => {}
        }
        self.pending.clear();
        Ok(())
    }
}

impl Write for LogFile {
    /// Takes one whole piece. After an error it is kept for the next write.
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.pending.len() + piece.len() > PENDING {
            self.lost = true;
            return Err(lost());
        }
        self.pending.extend(piece);
        self.drain()?;
        Ok(piece.len())
    }

    /// Makes sure that all of it is on the disk.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        if let State::Open { file, .. } = &self.state {
            file.sync_data()?;
        }
        if self.lost { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> io::Error {
    io::Error::other("more waited to be written than is kept, so a part was lost")
}

/// On Windows, who may append may not cut.
fn cut(file: &File, path: &Path, length: u64) -> io::Result<()> {
    if cfg!(windows) {
        return File::options().write(true).open(path)?.set_len(length);
    }
    file.set_len(length)
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::options().append(true).open(path)?;
    lock(&file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_earlier_file_stays_until_there_is_a_piece() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.jsonl");
        fs::write(&path, "an earlier run\n").expect("written");
        drop(LogFile::create(&path).expect("begun"));
        assert_eq!(fs::read_to_string(&path).expect("there"), "an earlier run\n");
        let mut log = LogFile::create(&path).expect("begun");
        for line in ["one\n", "two\n", "three\n"] {
            log.write_all(line.as_bytes()).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\ntwo\nthree\n");
        drop(log);

        let mut log = LogFile::resume(&path, 8).expect("resumed");
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\ntwo\nthree\n");
        log.write_all(b"3\n").expect("written");
        log.flush().expect("on the disk");
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\ntwo\n3\n");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn two_do_not_write_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.jsonl");
        let refused = |path: &Path| {
            let error = LogFile::create(path).expect_err("held").to_string();
            assert!(error.contains("another run writes it"), "{error}");
        };
        let mut first = LogFile::create(&path).expect("begun");
        refused(&path);
        first.write_all(b"one\n").expect("written");
        refused(&path);
        let link = folder.path().join("link");
        fs::hard_link(&path, &link).expect("linked");
        refused(&link);
        assert!(LogFile::resume(&path, 0).is_err());
        drop(first);
        LogFile::create(&path).expect("begun");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_written_is_kept_for_later() {
        let mut log = LogFile::create("/dev/full").expect("begun");
        assert!(log.write_all(b"one\n").is_err());
        assert!(log.flush().is_err());

        // As if there were room again.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.jsonl");
        log.state = State::Special(File::create(&path).expect("a file"));
        log.write_all(b"two\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\ntwo\n");

        // No more than a bound, and then it is said.
        log.state = State::Special(File::options().write(true).open("/dev/full").expect("there"));
        let piece = vec![b'x'; PENDING / 2];
        (0..3).for_each(|_| assert!(log.write_all(&piece).is_err()));
        log.state = State::Special(File::create(&path).expect("a file"));
        let error = log.flush().expect_err("a piece is lost").to_string();
        assert!(error.contains("lost"), "{error}");
        assert_eq!(fs::metadata(&path).expect("there").len(), PENDING as u64);
    }
}
