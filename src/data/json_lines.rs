//! Records out of files of JSON lines, one by one: files may be larger than memory.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::lines::{Lines, TextEncoding};
use super::object::{object, text_in};
use super::read::{metadata, unreadable};
use crate::error::{Error, Result};

/// What was skipped is described this often.
const DESCRIBED: usize = 100;

/// How files of records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// Leaves out records that are damaged, empty or too long, and [counts](RecordReader::skipped)
    /// them, where the first one is an error otherwise.
    pub skip_damaged: bool,
    /// The most bytes of a record, which bounds the memory that it takes to read one.
    pub longest: usize,
    /// How characters are encoded.
    pub encoding: TextEncoding,
}

impl Default for RecordOptions {
    /// What is damaged is an error; at most 64 MiB; UTF-8, or what a byte-order mark says.
    fn default() -> Self {
        let encoding = TextEncoding::default();
        Self { skip_damaged: false, longest: 64 << 20, encoding }
    }
}

/// A JSON object out of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonRecord {
    /// Its fields. No key came twice, at any depth.
    pub fields: Map<String, Value>,
    /// The line as it stands there, with its fields in their order.
    pub json: String,
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: u64,
}

/// A text, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The file, or file and line, as messages have them.
    pub place: String,
    /// The text.
    pub text: String,
}

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many records, and files without any.
    pub count: u64,
    /// File, line and reason of the first hundred.
    pub first: Vec<String>,
}

impl Skipped {
    pub(super) fn add(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < DESCRIBED {
            self.first.push(what);
        }
    }

    #[cfg(feature = "run")]
    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        let room = DESCRIBED.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }
}

impl JsonRecord {
    /// File and line, as messages have them.
    pub fn place(&self) -> String {
        place(&self.file, self.line)
    }

    /// The text in a field, or what is wrong with it.
    ///
    /// # Errors
    /// What is wrong, in words: no such field, no text in it, or an empty one.
    pub fn text(&self, field: &str) -> Result<&str, String> {
        text_in(&self.fields, field)
    }
}

fn place(file: &Path, line: u64) -> String {
    format!("{}, line {line}", file.display())
}

/// Reads files with a JSON object in each line, in their order. After an error there is nothing more.
///
/// Damaged are lines that are no JSON object, that have a key twice, that are empty (other than at
/// the end of a file), longer than the limit, or not in the file's encoding; and files without a
/// line. Each is named by file and line. What a record must have beyond that its reader decides, and
/// says so with [`refuse`](Self::refuse).
///
/// ```no_run
/// use evenkeel::data::{RecordOptions, RecordReader};
///
/// let options = RecordOptions { skip_damaged: true, ..RecordOptions::default() };
/// let mut reader = RecordReader::open(["part-0.jsonl", "part-1.jsonl"], options)?;
/// for text in reader.texts("text") {
///     println!("{}", text?.text);
/// }
/// println!("{} were skipped", reader.skipped().count);
/// # Ok::<(), evenkeel::Error>(())
/// ```
pub struct RecordReader {
    options: RecordOptions,
    files: VecDeque<Arc<Path>>,
    current: Option<Current>,
    skipped: Skipped,
    /// Of files that were read to their end.
    bytes: u64,
    total: u64,
}

/// The file that is being read.
struct Current {
    path: Arc<Path>,
    lines: Lines<File>,
    /// Lines read so far.
    line: u64,
    /// Empty ones of which it is not known yet whether they end the file.
    empty: Range<u64>,
    /// What follows them.
    behind: Option<Result<String, String>>,
}

impl RecordReader {
    /// Looks at all files, and opens them one after the other as they are read.
    ///
    /// # Errors
    /// [`Error::File`] for what is no file that can be read.
    pub fn open(
        paths: impl IntoIterator<Item = impl Into<PathBuf>>,
        options: RecordOptions,
    ) -> Result<Self> {
        let files: VecDeque<Arc<Path>> =
            paths.into_iter().map(|path| Arc::from(path.into())).collect();
        let mut total = 0;
        for path in &files {
            total += metadata(path)?.len();
        }
        Ok(Self { options, files, current: None, skipped: Skipped::default(), bytes: 0, total })
    }

    /// Bytes that were read, and those of all files: how far it is.
    pub fn progress(&self) -> (u64, u64) {
        let current = self.current.as_ref().map_or(0, |current| current.lines.bytes());
        (self.bytes + current, self.total)
    }

    /// What was left out so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Leaves a record out that its reader has no use for, or ends with it, as the options say.
    ///
    /// # Errors
    /// [`Error::Data`] with its place, unless what is damaged is skipped.
    pub fn refuse(&mut self, place: &str, reason: String) -> Result<()> {
        let error = Error::Data { what: place.to_owned(), reason };
        if !self.options.skip_damaged {
            self.end();
            return Err(error);
        }
        self.skipped.add(error.to_string());
        Ok(())
    }

    /// The texts in a field of the records; records that have none are damaged.
    pub fn texts(&mut self, field: &str) -> impl Iterator<Item = Result<Text>> {
        std::iter::from_fn(move || {
            loop {
                let record = match self.next()? {
                    Ok(record) => record,
                    Err(error) => return Some(Err(error)),
                };
                let place = record.place();
                match record.text(field) {
                    Ok(text) => return Some(Ok(Text { place, text: text.to_owned() })),
                    Err(reason) => {
                        if let Err(error) = self.refuse(&place, reason) {
                            return Some(Err(error));
                        }
                    }
                }
            }
        })
    }

    fn end(&mut self) {
        self.files.clear();
        self.current = None;
    }

    fn next_record(&mut self) -> Result<Option<JsonRecord>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                self.current = Some(Current::open(path, self.options)?);
            }
            let current = self.current.as_mut().expect("opened");
            let path = current.path.clone();
            let found = current.next().map_err(|error| unreadable(&path, &error))?;
            let Some((line, text)) = found else {
                self.close()?;
                continue;
            };
            match text.and_then(|json| Ok((object(&json)?, json))) {
                Ok((fields, json)) => {
                    return Ok(Some(JsonRecord { fields, json, file: path, line }));
                }
                Err(reason) => self.refuse(&place(&path, line), reason)?,
            }
        }
    }

    /// Leaves a file that is read to its end.
    fn close(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        self.bytes += current.lines.bytes();
        if current.line > current.empty.end - current.empty.start {
            return Ok(());
        }
        let reason = "there are no lines in it; give some to learn from".to_owned();
        self.refuse(&current.path.display().to_string(), reason)
    }
}

impl Iterator for RecordReader {
    type Item = Result<JsonRecord>;

    fn next(&mut self) -> Option<Result<JsonRecord>> {
        let record = self.next_record().transpose();
        if matches!(record, Some(Err(_))) {
            self.end();
        }
        record
    }
}

impl Current {
    fn open(path: Arc<Path>, options: RecordOptions) -> Result<Self> {
        let open = || Lines::new(File::open(&path)?, options.encoding, options.longest);
        let lines = open().map_err(|error| unreadable(&path, &error))?;
        Ok(Self { path, lines, line: 0, empty: 0..0, behind: None })
    }

    /// The next line with its number. Empty lines come only if there is another behind them.
    fn next(&mut self) -> std::io::Result<Option<(u64, Result<String, String>)>> {
        while self.behind.is_none() {
            let Some(line) = self.lines.next()? else { return Ok(None) };
            self.line += 1;
            if line.as_ref().is_ok_and(|line| line.trim().is_empty()) {
                let start = if self.empty.is_empty() { self.line } else { self.empty.start };
                self.empty = start..self.line + 1;
            } else {
                self.behind = Some(line);
            }
        }
        if let Some(line) = self.empty.next() {
            return Ok(Some((line, Ok(String::new()))));
        }
        Ok(self.behind.take().map(|line| (self.line, line)))
    }
}
