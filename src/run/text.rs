//! The text to learn: a file, or files of a repository.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{self, Corpus, Vocabulary, decode, with_unix_lines};
use crate::error::{Error, Result};

/// Folders of the repository whose files are read.
const FOLDERS: [&str; 3] = ["examples", "shaders", "src"];

/// A text, and the files that it came from.
#[derive(Debug)]
pub struct Text {
    /// Its tokens.
    pub corpus: Corpus,
    /// What was read.
    pub files: Vec<PathBuf>,
}

/// What is kept of a text, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The characters that are tokens, in order; none where tokens are bytes.
    pub characters: Option<String>,
    /// Number of tokens.
    pub tokens: usize,
    /// FNV-1a of the tokens, 64 bits as a hexadecimal number.
    pub hash: String,
}

impl Fingerprint {
    /// Of tokens, whatever they stand for.
    pub fn of(tokens: &[u32]) -> Self {
        let mut hash = TokenHash::default();
        hash.add(tokens);
        hash.fingerprint()
    }
}

/// The [`Fingerprint`] of tokens that come some at a time.
#[derive(Clone, Debug)]
pub struct TokenHash {
    hash: u64,
    tokens: usize,
}

impl Default for TokenHash {
    /// Of no tokens yet.
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, tokens: 0 }
    }
}

impl TokenHash {
    /// And some more.
    pub fn add(&mut self, tokens: &[u32]) {
        for byte in tokens.iter().flat_map(|token| token.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.tokens += tokens.len();
    }

    /// Of all of them.
    pub fn fingerprint(&self) -> Fingerprint {
        let Self { hash, tokens } = *self;
        Fingerprint { characters: None, tokens, hash: format!("{hash:016x}") }
    }
}

impl Text {
    /// A file, as characters or as bytes.
    ///
    /// # Errors
    /// As [`data::read`] and [`Corpus::new`].
    pub fn file(path: &Path, bytes: bool) -> Result<Self> {
        let (name, contents) = (path.display().to_string(), data::read(path)?);
        let corpus =
            if bytes { Corpus::bytes(name, &contents) } else { Corpus::new(name, &contents) };
        Ok(Self { corpus: corpus?, files: vec![path.to_owned()] })
    }

    /// The documents of a repository first, then every source file, in the order of their paths.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Data`] where there are none.
    pub fn repository(root: &Path, bytes: bool) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, &["md"], false, &mut files);
        for folder in FOLDERS {
            collect(&root.join(folder), &["md", "rs", "wgsl"], true, &mut files);
        }
        let mut text = Vec::new();
        for file in &files {
            let contents = data::read(file)?;
            if bytes {
                text.extend(contents);
            } else {
                // Each with its own mark, if it has one.
                text.extend(decode(&file.display().to_string(), &contents)?.into_bytes());
            }
        }
        if text.is_empty() {
            return Err(Error::Data {
                what: root.display().to_string(),
                reason: "this repository's files are no longer there; give a text with --text FILE"
                    .into(),
            });
        }
        let name = format!("this repository ({} files)", files.len());
        let corpus = if bytes { Corpus::bytes(name, &text) } else { Corpus::new(name, &text) };
        Ok(Self { corpus: corpus?, files })
    }

    /// The tokens of the prompt. Without one: the first line of the text, or what fits of it.
    ///
    /// # Errors
    /// [`Error::Data`] for characters that the text does not have, [`Error::Setting`] for none.
    pub fn prompt(&self, prompt: Option<&str>) -> Result<Vec<u32>> {
        let (corpus, vocabulary) = (&self.corpus, self.corpus.vocabulary());
        match prompt {
            Some("") => {
                let range = "at least one character";
                Err(Error::Setting { setting: "--prompt", value: "empty".into(), range })
            }
            Some(prompt) if *vocabulary == Vocabulary::Bytes => vocabulary.encode(prompt),
            Some(prompt) => vocabulary.encode(&with_unix_lines(prompt.to_owned())),
            None => {
                let beginning = &corpus.tokens()[..corpus.tokens().len().min(32)];
                let newline = vocabulary.encode("\n").ok().map(|tokens| tokens[0]);
                let end = beginning.iter().position(|&token| Some(token) == newline);
                Ok(beginning[..end.map_or(beginning.len(), |end| end + 1)].to_vec())
            }
        }
    }

    /// What is kept of it.
    pub fn fingerprint(&self) -> Fingerprint {
        let characters = match self.corpus.vocabulary() {
            Vocabulary::Characters(characters) => Some(characters.iter().collect()),
            Vocabulary::Bytes => None,
        };
        Fingerprint { characters, ..Fingerprint::of(self.corpus.tokens()) }
    }

    /// Makes sure that this is the text of a run that goes on.
    ///
    /// # Errors
    /// [`Error::Data`] if it is another.
    pub fn check(&self, saved: &Fingerprint) -> Result<()> {
        let found = self.fingerprint();
        if found == *saved {
            return Ok(());
        }
        let reason = format!(
            "this is not the text that the run has learned so far ({} tokens here, {} there); give \
             that one with --text, or begin another run with --out",
            found.tokens, saved.tokens
        );
        Err(Error::Data { what: self.corpus.name().to_owned(), reason })
    }
}

fn collect(folder: &Path, extensions: &[&str], deep: bool, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if deep && path.is_dir() {
            collect(&path, extensions, deep, files);
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_between_files_are_no_text() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("src")).expect("made");
        fs::write(root.path().join("a.md"), "\u{feff}one\r\n").expect("written");
        fs::write(root.path().join("src/b.rs"), "\u{feff}two\n").expect("written");
        fs::write(root.path().join("src/c.txt"), "no source").expect("written");
        let text = Text::repository(root.path(), false).expect("a text");
        let tokens = text.corpus.tokens();
        assert_eq!(text.corpus.vocabulary().decode(tokens), "one\ntwo\n");
        assert_eq!(text.files.len(), 2);
        let one = text.prompt(None).expect("the first line");
        assert_eq!(text.corpus.vocabulary().decode(&one), "one\n");
        assert_eq!(text.prompt(Some("two\r\n")).expect("a prompt").len(), 4);
        assert_eq!(Text::repository(root.path(), true).expect("bytes").corpus.tokens().len(), 15);
    }

    #[test]
    fn another_text_is_known() {
        let text = |text: &str| Text {
            corpus: Corpus::new("a text", text.as_bytes()).expect("a text"),
            files: Vec::new(),
        };
        let saved = text("abcab").fingerprint();
        assert_eq!(saved.characters.as_deref(), Some("abc"));
        text("abcab").check(&saved).expect("the same");
        for other in ["abcaa", "abca", "abdab"] {
            let error = text(other).check(&saved).expect_err("another").to_string();
            assert!(error.contains("not the text that the run has learned"), "{error}");
        }
        // FNV-1a of nothing and of one byte, from its authors' list, by way of four bytes a token.
        assert_eq!(text("a").fingerprint().hash, "4d25767f9dce13f5");
    }
}
