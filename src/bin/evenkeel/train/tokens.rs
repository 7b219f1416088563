//! The data as tokens, and the vocabulary that they are of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use evenkeel::data::{Document, Documents, Reading, Vocabulary};
use evenkeel::file;
use evenkeel::run::warn;
use evenkeel::text::{Tokenizer, vocabulary};
use evenkeel::{Error, Result};

use super::options::Options;
use super::progress::Progress;

/// The files that a tokenizer is kept in.
const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
/// Texts longer than this are encoded in parts, in bytes.
const LONGEST_PART: usize = 1 << 20;
/// What was skipped is named this often.
const NAMED: usize = 5;
/// Tokens that a sample starts with, at most, where nothing was given.
const PROMPT: usize = 32;

/// The files of a tokenizer, by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What is a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Characters,
    Bytes,
    /// Byte pairs that are learned from the data.
    Bpe(usize),
    /// A tokenizer.json or its folder.
    Path(PathBuf),
    /// That of --model.
    Model,
}

impl Kind {
    /// # Errors
    /// [`Error::Setting`] for a size that is none, [`Error::Unsupported`] for other tokens than the
    /// model's.
    pub fn of(options: &Options) -> Result<Self> {
        let Some(name) = &options.tokenizer else {
            return Ok(if options.model.is_some() { Self::Model } else { Self::Characters });
        };
        let kind = match (name.as_str(), name.strip_prefix("bpe:")) {
            ("characters", _) => Self::Characters,
            ("bytes", _) => Self::Bytes,
            (_, Some(size)) => {
                let size = size.parse().ok().filter(|size| *size >= vocabulary::SMALLEST);
                Self::Bpe(size.ok_or_else(|| Error::Setting {
                    setting: "--tokenizer",
                    value: name.clone(),
                    range: "bpe:SIZE with a size of at least 257",
                })?)
            }
            _ => Self::Path(PathBuf::from(name)),
        };
        if options.model.is_some() && !matches!(kind, Self::Path(_)) {
            return Err(Error::Unsupported {
                what: format!("--tokenizer {name} with --model"),
                instead: "the model has learned its own tokens; leave --tokenizer out".to_owned(),
            });
        }
        Ok(kind)
    }

    /// # Errors
    /// [`Error::File`] for a path that is not there.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Path(path) if !path.exists() => {
                let reason = "there is no such tokenizer; it is characters, bytes, bpe:SIZE, or \
                              the path of a tokenizer.json or its folder";
                Err(Error::File { path: path.clone(), reason: reason.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// A vocabulary, and what it takes to use it elsewhere.
pub struct Tokens {
    /// Where the data come from.
    pub name: String,
    /// What the vocabulary is, in words.
    pub unit: String,
    pub ids: Vec<u32>,
    /// Tokens of the vocabulary.
    pub size: usize,
    pub tokenizer: Tokenizer,
    /// The files of the tokenizer, by their names.
    pub files: Files,
    /// What was read.
    pub read: Vec<PathBuf>,
    /// Where tokens are characters or bytes.
    plain: Option<Vocabulary>,
}

/// Reads the data.
///
/// # Errors
/// What is wrong with the data; see [`Documents::read`].
pub fn documents(options: &Options, kind: &Kind, quiet: bool) -> Result<Documents> {
    let reading = Reading {
        field: options.field.clone().unwrap_or_else(|| "text".to_owned()),
        bad_records: options.bad_records.unwrap_or_default(),
        raw: *kind == Kind::Bytes,
    };
    let bar = Progress::bytes("reading", quiet);
    let documents = Documents::read(&options.data, &reading, |done, of| bar.show(done, of))?;
    bar.finish();
    let skipped = documents.skipped();
    skipped.iter().take(NAMED).for_each(|what| warn(format!("skipped {what}")));
    if skipped.len() > NAMED {
        warn(format!("and {} more were skipped", skipped.len() - NAMED));
    }
    Ok(documents)
}

/// The files of the vocabulary, and in the case of characters the vocabulary itself.
///
/// # Errors
/// What is wrong with a tokenizer.
fn vocabulary_of(
    kind: &Kind,
    documents: &Documents,
    quiet: bool,
) -> Result<(Files, Option<Vocabulary>)> {
    let alone = |json: Vec<u8>| BTreeMap::from([(FILES[0].to_owned(), json)]);
    Ok(match kind {
        Kind::Characters => {
            let vocabulary = Vocabulary::of(&joined_text(documents));
            let Vocabulary::Characters(characters) = &vocabulary else { unreachable!() };
            (alone(vocabulary::of_characters(characters)), Some(vocabulary))
        }
        Kind::Bytes => (alone(vocabulary::of_bytes()), Some(Vocabulary::Bytes)),
        Kind::Bpe(size) => {
            let list = documents.documents();
            let bar = Progress::count("learning the vocabulary", quiet);
            let texts = list.iter().enumerate().map(|(index, document)| {
                bar.show(index as u64 + 1, list.len() as u64);
                document.text().into_owned()
            });
            let files = vocabulary::byte_level_bpe(texts, *size)?;
            bar.finish();
            (files, None)
        }
        Kind::Path(path) if path.is_dir() => (files_in(path)?, None),
        Kind::Path(path) => (alone(read(path)?), None),
        Kind::Model => unreachable!("the model gives its own"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("the tokenizer cannot be read: {error}"),
    })
}

/// The files of a tokenizer in a folder.
///
/// # Errors
/// [`Error::File`].
pub fn files_in(folder: &Path) -> Result<Files> {
    let there = FILES.iter().filter(|name| folder.join(name).is_file());
    there.map(|name| Ok(((*name).to_owned(), read(&folder.join(name))?))).collect()
}

/// All texts behind each other; each record ends its line.
fn joined(documents: &Documents) -> Vec<u8> {
    let mut all = Vec::new();
    for document in documents.documents() {
        all.extend_from_slice(&document.contents);
        if document.is_record && !document.contents.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    all
}

fn joined_text(documents: &Documents) -> String {
    String::from_utf8_lossy(&joined(documents)).into_owned()
}

impl Tokens {
    /// Encodes the data, with a vocabulary that is made of them if need be, with the given files, or
    /// with those of a run that goes on.
    ///
    /// # Errors
    /// What is wrong with vocabulary and data.
    pub fn encode(
        kind: &Kind,
        documents: &Documents,
        files: Option<Files>,
        quiet: bool,
    ) -> Result<Self> {
        let (files, plain) = match (files, kind) {
            (Some(files), Kind::Bpe(_) | Kind::Path(_) | Kind::Model) => (files, None),
            _ => vocabulary_of(kind, documents, quiet)?,
        };
        let tokenizer = Tokenizer::from_files(&files)?;
        let ids = match &plain {
            Some(Vocabulary::Bytes) => joined(documents).into_iter().map(u32::from).collect(),
            Some(vocabulary) => vocabulary.encode(&joined_text(documents))?,
            None => encode_all(&tokenizer, documents, quiet)?,
        };
        let size = tokenizer.size();
        let unit = match kind {
            Kind::Characters => format!("{size} characters"),
            Kind::Bytes => "256 bytes".to_owned(),
            Kind::Bpe(_) => format!("{size} byte pairs, learned from the data"),
            Kind::Path(path) => format!("{size} tokens of {}", path.display()),
            Kind::Model => format!("{size} tokens of the model"),
        };
        let read = documents.files().to_vec();
        let name = match &*read {
            [one] => one.display().to_string(),
            several => format!("{} files", several.len()),
        };
        Ok(Self { name, unit, ids, size, tokenizer, files, read, plain })
    }

    /// The tokens of the prompt. Without one: the first line of the data, or what fits of it.
    ///
    /// # Errors
    /// [`Error::Data`] for what the vocabulary does not have, [`Error::Setting`] for nothing.
    pub fn prompt(&self, prompt: Option<&str>) -> Result<Vec<u32>> {
        match (prompt, &self.plain) {
            (Some(""), _) => {
                let range = "at least one character";
                Err(Error::Setting { setting: "--prompt", value: "empty".into(), range })
            }
            (Some(prompt), Some(vocabulary)) => vocabulary.encode(prompt),
            (Some(prompt), None) => self.tokenizer.encode(prompt, true),
            (None, _) => {
                let beginning = &self.ids[..self.ids.len().min(PROMPT)];
                let ends = |id: &u32| {
                    self.tokenizer.decode(&[*id], false).is_ok_and(|text| text.contains('\n'))
                };
                let end = beginning.iter().position(ends);
                Ok(beginning[..end.map_or(beginning.len(), |end| end + 1)].to_vec())
            }
        }
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// [`Error::Data`] where the decoder fails.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        match &self.plain {
            Some(vocabulary) => Ok(vocabulary.decode(ids)),
            None => self.tokenizer.decode(ids, false),
        }
    }

    /// Tokens of a document among the ids.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn count(&self, document: &Document) -> Result<usize> {
        let ends = document.is_record && !document.contents.ends_with(b"\n");
        Ok(match &self.plain {
            Some(Vocabulary::Bytes) => document.contents.len() + usize::from(ends),
            Some(_) => document.text().chars().count() + usize::from(ends),
            None => {
                let mut ids = Vec::new();
                encode_one(&self.tokenizer, &document.text(), &mut ids)?;
                ids.len()
            }
        })
    }

    /// Writes the files of the tokenizer into a folder.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.files
            .iter()
            .try_for_each(|(name, contents)| file::replace(folder.join(name), contents))
    }
}

/// Each text as the tokenizer has it, and behind it the token that ends texts, if there is one.
fn encode_all(tokenizer: &Tokenizer, documents: &Documents, quiet: bool) -> Result<Vec<u32>> {
    let documents = documents.documents();
    let bar = Progress::count("encoding", quiet);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Each thread takes what lies behind the others', so that the order stays.
    let share = documents.len().div_ceil(threads).max(1);
    let done = AtomicUsize::new(0);
    let encode = |part: &[Document]| -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for document in part {
            encode_one(tokenizer, &document.text(), &mut ids)?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            bar.show(done as u64, documents.len() as u64);
        }
        Ok(ids)
    };
    let parts: Result<Vec<_>> = std::thread::scope(|scope| {
        let running: Vec<_> =
            documents.chunks(share).map(|part| scope.spawn(|| encode(part))).collect();
        running.into_iter().map(|one| one.join().expect("no panic in a thread")).collect()
    });
    bar.finish();
    Ok(parts?.concat())
}

fn encode_one(tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<()> {
    for (index, part) in parts(text).into_iter().enumerate() {
        ids.extend(tokenizer.encode(part, index == 0)?);
    }
    if let Some(end) = tokenizer.special().eos.filter(|end| ids.last() != Some(end)) {
        ids.push(end);
    }
    Ok(())
}

/// A long text in parts that begin lines, where patterns of tokenizers end a word anyway.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > LONGEST_PART {
        let bytes = text.as_bytes();
        let begins = |at: &usize| bytes[at - 1] == b'\n' && bytes[*at].is_ascii_alphanumeric();
        let Some(at) = (LONGEST_PART..bytes.len()).find(begins) else { break };
        let (part, rest) = text.split_at(at);
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole() {
        let line = "a line of some length, and another half\n";
        let text = line.repeat(3 * LONGEST_PART / line.len());
        let cut = parts(&text);
        assert!(
            cut.len() == 3 && cut.iter().all(|part| part.starts_with("a line")),
            "{}",
            cut.len()
        );
        assert_eq!(cut.concat(), text);
        assert_eq!(parts("short"), ["short"]);
        let without_lines = "x".repeat(2 * LONGEST_PART);
        assert_eq!(parts(&without_lines).len(), 1);
    }
}
