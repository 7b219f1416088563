//! Documents one after the other, out of files of several kinds.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::documents::{BadRecords, Document, DocumentKind, Form, Reading};
use super::json_lines::{JsonRecord, RecordOptions, RecordReader, Skipped};
#[cfg(feature = "parquet")]
use super::parquet_rows::ParquetRows;
use super::text_parts::{Damage, Part, RawParts, TextParts};
use crate::error::{Error, Result};

/// The field of a record's text where nothing else was said.
const TEXT: &str = "text";

/// Reads [`Documents`](super::Documents) in the order of files and lines. After an error there is
/// nothing more.
///
/// # Errors
/// [`Error::File`] for what cannot be read; [`Error::Data`] that names file and line for what is
/// damaged or empty, unless it is to be skipped, and where nothing is left.
pub struct DocumentReader {
    reading: Reading,
    files: VecDeque<Arc<Path>>,
    current: Option<(Arc<Path>, Contents)>,
    skipped: Skipped,
    /// Of files that were read to their end.
    bytes: u64,
    total: u64,
    given: u64,
    /// All that is read, in messages.
    what: String,
    is_over: bool,
}

/// A file that is being read.
enum Contents {
    Text(TextParts),
    Raw(RawParts),
    Records(Box<RecordReader>),
    #[cfg(feature = "parquet")]
    Rows(Box<ParquetRows>, u64),
}

/// What comes next in a file.
enum Next {
    Document(Document),
    /// Something that is left out or ends it all, and whether the file goes on behind it.
    Refused(Error, bool),
    End,
}

impl DocumentReader {
    pub(super) fn new(files: &[PathBuf], total: u64, reading: Reading, what: String) -> Self {
        Self {
            reading,
            files: files.iter().map(|path| Arc::from(path.as_path())).collect(),
            current: None,
            skipped: Skipped::default(),
            bytes: 0,
            total,
            given: 0,
            what,
            is_over: false,
        }
    }

    /// What was left out of the files that were read to their end.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Bytes that were read, and those of all files: how far it is.
    pub fn progress(&self) -> (u64, u64) {
        let current = self.current.as_ref().map_or(0, |(_, contents)| contents.bytes());
        (self.bytes + current, self.total)
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.files.pop_front() else { break };
                match Contents::open(&path, &self.reading)? {
                    Ok(contents) => self.current = Some((path, contents)),
                    Err(reason) => self.refuse(damaged(path.display().to_string(), reason))?,
                }
                continue;
            }
            let Some((path, contents)) = &mut self.current else { continue };
            match contents.next(path, &self.reading)? {
                Next::Document(document) => {
                    self.given += 1;
                    return Ok(Some(document));
                }
                Next::Refused(error, goes_on) => {
                    self.refuse(error)?;
                    if !goes_on {
                        self.close();
                    }
                }
                Next::End => self.close(),
            }
        }
        if self.given > 0 {
            return Ok(None);
        }
        let reason = match self.skipped.first.first() {
            Some(first) => format!("nothing is left to learn from; the first skipped: {first}"),
            None => "there is nothing to learn from in it".to_owned(),
        };
        Err(Error::Data { what: self.what.clone(), reason })
    }

    fn close(&mut self) {
        let Some((_, contents)) = self.current.take() else { return };
        self.bytes += contents.bytes();
        if let Contents::Records(reader) = contents {
            self.skipped.merge(reader.skipped());
        }
    }

    /// Notes what is wrong, or fails with it.
    fn refuse(&mut self, error: Error) -> Result<()> {
        match (self.reading.bad_records, error) {
            (BadRecords::Skip, error @ Error::Data { .. }) => {
                self.skipped.add(error.to_string());
                Ok(())
            }
            (_, error) => Err(with_way_out(error)),
        }
    }
}

impl Iterator for DocumentReader {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        if self.is_over {
            return None;
        }
        let document = self.next_document().transpose();
        self.is_over = !matches!(document, Some(Ok(_)));
        document
    }
}

/// Says that what is damaged may be left out.
fn with_way_out(error: Error) -> Error {
    match error {
        Error::Data { what, reason } => {
            let reason = format!("{reason} (--bad-records skip leaves such ones out)");
            Error::Data { what, reason }
        }
        other => other,
    }
}

fn damaged(what: String, reason: String) -> Error {
    Error::Data { what, reason }
}

impl Contents {
    /// Inside, what is wrong with the file.
    fn open(path: &Path, reading: &Reading) -> Result<std::result::Result<Self, String>> {
        let &Reading { bad_records, encoding, longest, .. } = reading;
        Ok(Ok(match Form::of(path) {
            Form::Records => {
                let skip_damaged = bad_records == BadRecords::Skip;
                let options = RecordOptions { skip_damaged, longest, encoding };
                Self::Records(Box::new(RecordReader::open([path], options)?))
            }
            Form::Table => return Self::table(path, reading),
            Form::Packed(extension) => {
                let reason = "are not read; unpack it first";
                return Ok(Err(format!("files that end in .{extension} {reason}")));
            }
            Form::Text if reading.raw => Self::Raw(RawParts::open(path)?),
            Form::Text => Self::Text(TextParts::open(path, encoding)?),
        }))
    }

    #[cfg(feature = "parquet")]
    fn table(path: &Path, reading: &Reading) -> Result<std::result::Result<Self, String>> {
        let field = reading.field.as_deref().unwrap_or(TEXT);
        let size = super::read::metadata(path)?.len();
        let rows = ParquetRows::open(path, field, reading.longest)?;
        Ok(rows.map(|rows| Self::Rows(Box::new(rows), size)))
    }

    #[cfg(not(feature = "parquet"))]
    fn table(_: &Path, _: &Reading) -> Result<std::result::Result<Self, String>> {
        let reason = "Parquet files are read where this library is built with the feature parquet; \
                      write its column of texts as JSON lines";
        Ok(Err(reason.to_owned()))
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Text(parts) => parts.bytes(),
            Self::Raw(parts) => parts.bytes(),
            Self::Records(reader) => reader.progress().0,
            #[cfg(feature = "parquet")]
            Self::Rows(rows, size) => rows.bytes(*size),
        }
    }

    fn next(&mut self, path: &Arc<Path>, reading: &Reading) -> Result<Next> {
        match self {
            Self::Text(parts) => Ok(of_part(parts.next(path)?, path)),
            Self::Raw(parts) => Ok(of_part(parts.next(path)?, path)),
            Self::Records(reader) => next_record(reader, reading),
            #[cfg(feature = "parquet")]
            Self::Rows(rows, _) => Ok(match rows.next() {
                Ok(None) => Next::End,
                Ok(Some((row, Err(reason)))) => {
                    Next::Refused(damaged(format!("{}, row {row}", path.display()), reason), true)
                }
                Ok(Some((line, Ok(text)))) => {
                    let (file, contents) = (path.clone(), text.into_bytes());
                    Next::Document(Document { contents, kind: DocumentKind::Row, file, line })
                }
                Err(reason) => Next::Refused(damaged(path.display().to_string(), reason), false),
            }),
        }
    }
}

fn of_part(found: Option<std::result::Result<Part, Damage>>, path: &Arc<Path>) -> Next {
    match found {
        None => Next::End,
        Some(Ok(Part { contents, line, is_first, is_last })) => {
            let (kind, file) = (DocumentKind::Part { is_first, is_last }, path.clone());
            Next::Document(Document { contents, kind, file, line })
        }
        Some(Err(Damage { reason, line })) => {
            let file = path.display();
            let what = line.map_or(file.to_string(), |line| format!("{file}, line {line}"));
            Next::Refused(damaged(what, reason), false)
        }
    }
}

fn next_record(reader: &mut RecordReader, reading: &Reading) -> Result<Next> {
    loop {
        let record = match reader.next() {
            None => return Ok(Next::End),
            Some(Err(error)) => return Ok(Next::Refused(error, false)),
            Some(Ok(record)) => record,
        };
        let place = record.place();
        match document_of(record, reading) {
            Ok(document) => return Ok(Next::Document(document)),
            Err(reason) => match reader.refuse(&place, reason) {
                Ok(()) => {}
                Err(error) => return Ok(Next::Refused(error, false)),
            },
        }
    }
}

fn document_of(record: JsonRecord, reading: &Reading) -> std::result::Result<Document, String> {
    let (file, line) = (record.file.clone(), record.line as usize);
    if reading.field.is_none() && is_example(&record) {
        let (contents, kind) = (record.json.into_bytes(), DocumentKind::Example);
        return Ok(Document { contents, kind, file, line });
    }
    let field = reading.field.as_deref().unwrap_or(TEXT);
    let text = record.text(field).map_err(|reason| {
        let other = !record.fields.is_empty() && !record.fields.contains_key(field);
        reason + if other { "; name the one with the text with --field" } else { "" }
    })?;
    let (contents, kind) = (text.as_bytes().to_vec(), DocumentKind::Line);
    Ok(Document { contents, kind, file, line })
}

/// Whether it has the fields of an example of `text` that is more than a text.
fn is_example(record: &JsonRecord) -> bool {
    let has = |name: &str| record.fields.contains_key(name);
    (has("prompt") && has("completion")) || has("messages")
}

#[cfg(test)]
mod tests;
