//! Texts to learn from, out of files, folders, JSON lines and Parquet: which files there are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::document_reader::DocumentReader;
use super::read::metadata;
use super::token_cache::Piece;
use super::{Fingerprint, TextEncoding};
use crate::error::{Error, Result};

/// Names of files with a record in each line.
const RECORDS: [&str; 2] = ["jsonl", "ndjson"];
/// Names of files with records in rows.
const TABLES: [&str; 1] = ["parquet"];
/// Names of files whose contents are not to be learned as they are.
const PACKED: [&str; 3] = ["gz", "xz", "zst"];

/// What is done about a file or a record that is damaged or empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRecords {
    /// It is left out, and named.
    Skip,
    /// It is an error.
    #[default]
    Fail,
}

/// How files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The field or the column of a record that has its text. Without one that is `text`, and JSON
    /// lines with `prompt` and `completion`, or with `messages`, are taken whole.
    pub field: Option<String>,
    /// What is done about those that are damaged or empty.
    pub bad_records: BadRecords,
    /// Takes files as they are, byte by byte, text or not. Records are texts all the same.
    pub raw: bool,
    /// How characters are encoded.
    pub encoding: TextEncoding,
    /// The most bytes of a record.
    pub longest: usize,
}

impl Default for Reading {
    /// No field; what is damaged is an error; files are texts, in UTF-8 or what a byte-order mark
    /// says; records of at most 64 MiB.
    fn default() -> Self {
        let (bad_records, encoding) = (BadRecords::Fail, TextEncoding::default());
        Self { field: None, bad_records, raw: false, encoding, longest: 64 << 20 }
    }
}

/// What of a file a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A file, or a part of one that is large: parts begin lines.
    Part {
        /// Whether the file begins with it.
        is_first: bool,
        /// Whether the file ends with it.
        is_last: bool,
    },
    /// The text of a JSON line.
    Line,
    /// The text of a row of a table.
    Row,
    /// A JSON line with a prompt and a completion or with messages, as it stands there.
    Example,
}

/// A text, or with [`Reading::raw`] the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// UTF-8 unless files are taken as they are.
    pub contents: Vec<u8>,
    /// What it is.
    pub kind: DocumentKind,
    /// The file that it is from.
    pub file: Arc<Path>,
    /// The line of the file that it is, or begins with, or its row; counted from 1.
    pub line: usize,
}

impl Document {
    /// The text; what is none becomes U+FFFD.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.contents)
    }

    /// Whether it is one of the records of a file.
    pub fn is_record(&self) -> bool {
        !matches!(self.kind, DocumentKind::Part { .. })
    }
}

impl Piece for Document {
    fn place(&self) -> String {
        let file = self.file.display();
        match self.kind {
            DocumentKind::Part { is_first: true, .. } => file.to_string(),
            DocumentKind::Row => format!("{file}, row {}", self.line),
            _ => format!("{file}, line {}", self.line),
        }
    }

    fn bytes(&self) -> usize {
        self.contents.len()
    }
}

/// The files that texts are in. They are read as often as they are asked for, some of them in memory
/// at a time: they may be larger than that.
///
/// - A file whose name ends in `.jsonl` or `.ndjson` has a JSON object in each line, as
///   [`RecordReader`](super::RecordReader) reads it, whose [field](Reading::field) is a text. Other
///   fields are passed over.
/// - One that ends in `.parquet` has a text in the column of that name in each row; needs the feature
///   `parquet`.
/// - Any other file is one text, in parts where it is large.
///
/// ```
/// use evenkeel::data::{Documents, Reading};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("two.jsonl");
/// # std::fs::write(&path, "{\"text\": \"one\"}\n{\"text\": \"two\"}\n").unwrap();
/// let documents = Documents::find(&[path], Reading::default())?;
/// for document in documents.read() {
///     let document = document?;
///     println!("line {}: {}", document.line, document.text());
/// }
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Documents {
    paths: Vec<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
    reading: Reading,
}

impl Documents {
    /// Looks for files. Of a folder all are taken, those of its folders too, in the order of their
    /// paths; names that begin with a dot and links to folders are left out.
    ///
    /// # Errors
    /// [`Error::File`] for what is not there, is no regular file, or is a folder without any.
    pub fn find(paths: &[PathBuf], reading: Reading) -> Result<Self> {
        Self::find_outside(paths, &[], reading)
    }

    /// The same without what lies in some folders, such as that of a run that is among its data.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_outside(paths: &[PathBuf], folders: &[&Path], reading: Reading) -> Result<Self> {
        let outside: Vec<_> = folders.iter().filter_map(|path| path.canonicalize().ok()).collect();
        let mut files = Vec::new();
        for path in paths {
            let before = files.len();
            collect(path, &outside, &mut files)?;
            if files.len() == before {
                let reason = "there are no files in this folder; give one with texts".to_owned();
                return Err(Error::File { path: path.clone(), reason });
            }
        }
        let mut bytes = 0;
        for path in &files {
            let metadata = metadata(path)?;
            if !metadata.is_file() {
                let reason = "this can be read only once, and data are read more often; write \
                              them to a file first";
                return Err(Error::File { path: path.clone(), reason: reason.to_owned() });
            }
            bytes += metadata.len();
        }
        Ok(Self { paths: paths.to_vec(), files, bytes, reading })
    }

    /// The files, in their order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How they are read.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// What the contents of the files, and how they are read, are known again by. Where they lie does
    /// not count. `progress` is told the bytes read so far, and those of all files.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn fingerprint(&self, mut progress: impl FnMut(u64, u64)) -> Result<Fingerprint> {
        let reading = format!("documents 1 {:?}", self.reading);
        let (mut all, mut done) = (Fingerprint::new().with(reading.as_bytes()), 0);
        for path in &self.files {
            all = all.with(format!("{:?}", Form::of(path)).as_bytes()).with_file(path)?;
            done += metadata(path)?.len();
            progress(done, self.bytes);
        }
        Ok(all)
    }

    /// Reads all of them from the first on.
    pub fn read(&self) -> DocumentReader {
        let what = self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        DocumentReader::new(&self.files, self.bytes, self.reading.clone(), what.join(", "))
    }
}

/// What a file is by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Records,
    Table,
    Text,
    /// With its extension.
    Packed(&'static str),
}

impl Form {
    pub(super) fn of(path: &Path) -> Self {
        let is = |known: &&&'static str| has_extension(path, known);
        if RECORDS.iter().find(is).is_some() {
            return Self::Records;
        }
        if TABLES.iter().find(is).is_some() {
            return Self::Table;
        }
        PACKED.iter().find(is).map_or(Self::Text, |packed| Self::Packed(packed))
    }
}

fn has_extension(path: &Path, known: &str) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| found.eq_ignore_ascii_case(known))
}

/// All files of a folder but for those of some folders in it, or the file.
fn collect(path: &Path, outside: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error: std::io::Error| Error::File {
        path: path.to_owned(),
        reason: format!("the text cannot be read: {error}"),
    };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (hidden, kind) = (entry.file_name().as_encoded_bytes()[0] == b'.', entry.file_type());
        let (kind, path) = (kind.map_err(failed)?, entry.path());
        // A link to a folder may lead back to where it is.
        let is_link_to_folder = kind.is_symlink() && path.is_dir();
        let is_outside =
            || kind.is_dir() && path.canonicalize().is_ok_and(|p| outside.contains(&p));
        if !hidden && !is_link_to_folder && !is_outside() {
            collect(&path, outside, files)?;
        }
    }
    Ok(())
}
