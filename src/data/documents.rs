//! Texts to learn from, out of files, folders and JSON lines.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::records::record;
use super::{decode, read};
use crate::error::{Error, Result};

/// Names of files with a record in each line.
const RECORDS: [&str; 2] = ["jsonl", "ndjson"];
/// Names of files whose contents are not to be learned as they are, and what to do with them.
const PACKED: [(&str, &str); 4] = [
    ("parquet", "write its column of texts as JSON lines first"),
    ("gz", "unpack it first"),
    ("xz", "unpack it first"),
    ("zst", "unpack it first"),
];
/// Byte-order marks of texts whose lines do not end in one byte.
const WIDE_MARKS: [&[u8]; 3] = [b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"];

/// What is done about a file or a line that is damaged or empty.
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
#[derive(Clone, Debug)]
pub struct Reading {
    /// The field of a record that has its text.
    pub field: String,
    /// What is done about those that are damaged or empty.
    pub bad_records: BadRecords,
    /// Takes files as they are, byte by byte, text or not. Records are texts all the same.
    pub raw: bool,
}

impl Default for Reading {
    /// The field `text`; what is damaged is an error; files are texts.
    fn default() -> Self {
        Self { field: "text".to_owned(), bad_records: BadRecords::Fail, raw: false }
    }
}

/// A text, or with [`Reading::raw`] the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// UTF-8 unless files are taken as they are.
    pub contents: Vec<u8>,
    /// Whether it is a record of a file with others.
    pub is_record: bool,
    /// The file that it is from, as an index into [`Documents::files`].
    pub file: usize,
    /// The line of the file that it is, or begins with; counted from 1.
    pub line: usize,
}

impl Document {
    /// The text; what is none becomes U+FFFD.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.contents)
    }
}

/// Texts in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    documents: Vec<Document>,
    files: Vec<PathBuf>,
    skipped: Vec<String>,
    bytes: u64,
}

impl Documents {
    /// Reads files and folders.
    ///
    /// - A file whose name ends in `.jsonl` or `.ndjson` has a JSON object in each line, whose
    ///   [field](Reading::field) is a text. Other fields are passed over. Empty lines may end it.
    /// - Any other file is one text, as [`decode`] takes it.
    /// - Of a folder all files are read, those of its folders too, in the order of their paths;
    ///   names that begin with a dot and links to folders are left out.
    ///
    /// `progress` is told the bytes read so far, and those of all files.
    ///
    /// # Errors
    /// [`Error::File`] for what cannot be read; [`Error::Data`] that names file and line for what is
    /// damaged or empty, unless it is to be skipped, and where nothing is left.
    pub fn read(
        paths: &[PathBuf],
        reading: &Reading,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let mut found = Self::default();
        for path in paths {
            let before = found.files.len();
            collect(path, &mut found.files)?;
            if found.files.len() == before {
                let reason = "there are no files in this folder; give one with texts".to_owned();
                return Err(Error::File { path: path.clone(), reason });
            }
        }
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        let total = found.files.iter().map(size).sum();
        for (file, path) in found.files.clone().iter().enumerate() {
            found.read_file(path, file, reading)?;
            progress(found.bytes, total);
        }
        if found.documents.is_empty() {
            let what = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
            let reason = match found.skipped.first() {
                Some(first) => format!("nothing is left to learn from; the first skipped: {first}"),
                None => "there is nothing to learn from in it".to_owned(),
            };
            return Err(Error::Data { what: what.join(", "), reason });
        }
        Ok(found)
    }

    /// The texts.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// What was read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What was left out: file, line and reason of each.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_file(&mut self, path: &Path, file: usize, reading: &Reading) -> Result<()> {
        let contents = read(path)?;
        self.bytes += contents.len() as u64;
        let name = path.display().to_string();
        if has_extension(path, &RECORDS) {
            return self.read_records(&name, file, &contents, reading);
        }
        let document = |contents| Document { contents, is_record: false, file, line: 1 };
        match text_of(path, &name, contents, reading.raw) {
            Ok(contents) => self.documents.push(document(contents)),
            Err(error) => self.refuse(error, reading)?,
        }
        Ok(())
    }

    fn read_records(
        &mut self,
        name: &str,
        file: usize,
        contents: &[u8],
        reading: &Reading,
    ) -> Result<()> {
        let decoded;
        let contents = if WIDE_MARKS.iter().any(|mark| contents.starts_with(mark)) {
            decoded = decode(name, contents)?;
            decoded.as_bytes()
        } else {
            contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(contents)
        };
        let contents = contents.trim_ascii_end();
        if contents.is_empty() {
            let reason = "there are no lines in it; give some to learn from".to_owned();
            return self.refuse(Error::Data { what: name.to_owned(), reason }, reading);
        }
        for (index, line) in contents.split(|&byte| byte == b'\n').enumerate() {
            match record(line, &reading.field) {
                Ok(text) => {
                    let (contents, line) = (text.into_bytes(), index + 1);
                    self.documents.push(Document { contents, is_record: true, file, line });
                }
                Err(reason) => {
                    let what = format!("{name}, line {}", index + 1);
                    self.refuse(Error::Data { what, reason }, reading)?;
                }
            }
        }
        Ok(())
    }

    /// Notes what is wrong, or fails with it.
    fn refuse(&mut self, error: Error, reading: &Reading) -> Result<()> {
        match (reading.bad_records, error) {
            (BadRecords::Skip, error @ Error::Data { .. }) => {
                self.skipped.push(error.to_string());
                Ok(())
            }
            (BadRecords::Fail, Error::Data { what, reason }) => {
                let reason = format!("{reason} (--bad-records skip leaves such ones out)");
                Err(Error::Data { what, reason })
            }
            (_, error) => Err(error),
        }
    }
}

fn text_of(path: &Path, name: &str, contents: Vec<u8>, raw: bool) -> Result<Vec<u8>> {
    let wrong = |reason: String| Err(Error::Data { what: name.to_owned(), reason });
    if let Some((extension, instead)) = PACKED.iter().find(|(e, _)| has_extension(path, &[e])) {
        return wrong(format!("files that end in .{extension} are not read; {instead}"));
    }
    let contents = if raw { contents } else { decode(name, &contents)?.into_bytes() };
    let counts = |byte: &u8| raw || !byte.is_ascii_whitespace();
    if !contents.iter().any(counts) {
        return wrong("the text is empty; give one with something to learn from".to_owned());
    }
    Ok(contents)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is = |known: &&str| extension.is_some_and(|found| found.eq_ignore_ascii_case(known));
    extensions.iter().any(is)
}

/// All files of a folder, or the file.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
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
        if !hidden && !is_link_to_folder {
            collect(&path, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, contents) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, contents).expect("written");
        }
        folder
    }

    fn texts(found: &Documents) -> Vec<String> {
        found.documents().iter().map(|document| document.text().into_owned()).collect()
    }

    #[test]
    fn folders_files_and_records_are_read_in_order() {
        let folder = place(&[
            ("b.txt", b"\xef\xbb\xbftwo\r\n"),
            ("a/records.jsonl", b"{\"text\": \"zero\"}\n{\"n\": 1, \"text\": \"one\\n\"}\n\n"),
            (".hidden/no.txt", b"no"),
            (".no.txt", b"no"),
        ]);
        let mut told = Vec::new();
        let paths = [folder.path().to_owned()];
        let found = Documents::read(&paths, &Reading::default(), |done, of| told.push((done, of)));
        let found = found.expect("texts");
        assert_eq!(texts(&found), ["zero", "one\n", "two\n"]);
        let records: Vec<_> = found.documents().iter().map(|one| one.is_record).collect();
        assert_eq!((records, found.files().len()), (vec![true, true, false], 2));
        let places: Vec<_> = found.documents().iter().map(|one| (one.file, one.line)).collect();
        assert_eq!(places, [(0, 1), (0, 2), (1, 1)]);
        assert!(found.files()[1].ends_with("b.txt"));
        assert_eq!(told.last(), Some(&(found.bytes(), found.bytes())));
    }

    #[test]
    fn what_is_damaged_is_named_and_left_out_on_request() {
        for (bytes, line, part) in [
            (&b"{\"text\": \"a\"}\n{\"text\": "[..], 2, "EOF while parsing"),
            (b"{\"text\": \"a\"}\n\n{\"text\": \"b\"}", 2, "it is empty"),
            (b"{\"text\": \" \"}\n{\"text\": \"b\"}", 1, "its text is empty"),
            (b"{\"text\": 7}\n{\"text\": \"b\"}", 1, "its text is 7, which is no text"),
            (b"{\"body\": \"c\"}\n{\"text\": \"b\"}", 1, "it has no field \"text\", but body"),
            (b"[1]\n{\"text\": \"b\"}", 1, "it is no JSON object"),
            (b"{\"text\": \"a\", \"text\": \"b\"}\n{\"text\": \"b\"}", 1, "\"text\" twice"),
            (b"{\"text\": \"\xff\"}\n{\"text\": \"b\"}", 1, "it is no UTF-8"),
        ] {
            let folder = place(&[("records.jsonl", bytes)]);
            let paths = [folder.path().join("records.jsonl")];
            let read = |bad_records| {
                let reading = Reading { bad_records, ..Reading::default() };
                Documents::read(&paths, &reading, |_, _| {})
            };
            let error = read(BadRecords::Fail).expect_err(part).to_string();
            let place = format!("records.jsonl, line {line}: ");
            assert!(error.contains(&place) && error.contains(part), "{error}");
            assert!(error.contains("--bad-records skip"), "{error}");
            let found = read(BadRecords::Skip).expect("the rest");
            assert_eq!(found.skipped().len(), 1, "{:?}", found.skipped());
            assert!(found.skipped()[0].contains(&place), "{:?}", found.skipped());
        }
    }

    #[test]
    fn another_field_and_raw_files() {
        let folder = place(&[
            ("a.jsonl", b"{\"text\": \"no\", \"body\": \"yes\"}"),
            ("b.bin", b"\xff\xfea\r\n"),
            ("c.parquet", b"PAR1"),
        ]);
        let path = |name: &str| folder.path().join(name);
        let reading = Reading { field: "body".into(), raw: true, ..Reading::default() };
        let found = Documents::read(&[path("a.jsonl"), path("b.bin")], &reading, |_, _| {});
        let found = found.expect("both");
        assert_eq!(found.documents()[0].contents, b"yes");
        assert_eq!(found.documents()[1].contents, b"\xff\xfea\r\n");
        let error = Documents::read(&[path("c.parquet")], &reading, |_, _| {}).expect_err("packed");
        assert!(error.to_string().contains("are not read"), "{error}");
        let empty = tempfile::tempdir().expect("a folder");
        let empty = [empty.path().to_owned()];
        assert!(Documents::read(&empty, &reading, |_, _| {}).is_err());
    }
}
