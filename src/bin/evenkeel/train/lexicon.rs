//! A vocabulary, and how documents become its tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use evenkeel::data::{Document, DocumentKind, Encoded, Fingerprint, Vocabulary};
use evenkeel::file;
use evenkeel::text::{Completions, Example, LossOn, Supervision, Tokenizer};
use evenkeel::{Error, Result};

use super::kind::Kind;

/// The files that a tokenizer is kept in.
pub const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// The files of a tokenizer, by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A vocabulary, and what it takes to use it elsewhere.
pub struct Lexicon {
    /// What it is, in words.
    pub unit: String,
    /// Tokens of the vocabulary.
    pub size: usize,
    pub tokenizer: Tokenizer,
    /// The files of the tokenizer, by their names.
    pub files: Files,
    /// Where tokens are characters or bytes.
    plain: Option<Vocabulary>,
    supervision: Supervision,
}

/// The contents of a file of a tokenizer.
///
/// # Errors
/// [`Error::File`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
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

/// The text of a document as a vocabulary is learned from it. Of conversations there is none: they
/// take a tokenizer that has a template.
pub fn text_to_learn(document: &Document) -> String {
    match document.kind {
        DocumentKind::Example => match Example::parse(&document.text()) {
            Ok(Example::Completion { prompt, completion }) => prompt + &completion,
            _ => String::new(),
        },
        _ => document.text().into_owned(),
    }
}

/// Whether a record is to end its line, where nothing else tells it from the next.
fn ends_line(document: &Document, contents: &[u8]) -> bool {
    document.is_record() && !contents.ends_with(b"\n")
}

impl Lexicon {
    /// Of the files of a tokenizer.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(kind: &Kind, files: Files, mask_prompt: bool) -> Result<Self> {
        let tokenizer = Tokenizer::from_files(&files)?;
        let size = tokenizer.size();
        let character = |id: usize| tokenizer.token(id as u32)?.chars().next();
        let plain = match kind {
            Kind::Characters => {
                Some(Vocabulary::Characters((0..size).filter_map(character).collect()))
            }
            Kind::Bytes => Some(Vocabulary::Bytes),
            _ => None,
        };
        let unit = match kind {
            Kind::Characters => format!("{size} characters"),
            Kind::Bytes => "256 bytes".to_owned(),
            Kind::Bpe(_) => format!("{size} byte pairs, learned from the data"),
            Kind::Path(path) => format!("{size} tokens of {}", path.display()),
            Kind::Model => format!("{size} tokens of the model"),
        };
        let is_chat = tokenizer.chat_template("default").is_some();
        let supervision = Supervision {
            loss_on: if mask_prompt { LossOn::LastAnswer } else { LossOn::All },
            completions: if is_chat { Completions::Chat } else { Completions::Plain },
            ..Supervision::default()
        };
        Ok(Self { unit, size, tokenizer, files, plain, supervision })
    }

    /// What it, and how it is used, are known again by.
    pub fn fingerprint(&self) -> String {
        let plain = self.plain.as_ref().map(Vocabulary::size);
        let used = format!("tokens 1 {plain:?} {:?}", self.supervision);
        let all = self
            .files
            .iter()
            .fold(Fingerprint::new().with(used.as_bytes()), |all, (name, contents)| {
                all.with(name.as_bytes()).with(contents)
            });
        all.to_string()
    }

    /// Whether prompts do not count for the loss.
    pub fn masks_prompts(&self) -> bool {
        self.supervision.loss_on != LossOn::All
    }

    /// The tokens of a document. Behind a text comes the token that ends texts, if there is one.
    ///
    /// # Errors
    /// [`Error::Data`] for what cannot be encoded, and for texts where prompts are to be left out.
    pub fn encode(&self, document: &Document) -> Result<Encoded> {
        if document.kind == DocumentKind::Example {
            return self.example(document);
        }
        if self.masks_prompts() {
            return Err(Error::Data {
                what: "--mask-prompt".to_owned(),
                reason:
                    "a text has no prompt to leave out; leave --mask-prompt out, or write texts \
                         as prompt and completion"
                        .to_owned(),
            });
        }
        let contents = &document.contents;
        let tokens = match &self.plain {
            None => self.by_tokenizer(document)?,
            Some(plain) => {
                let mut tokens = match plain {
                    Vocabulary::Bytes => contents.iter().map(|&byte| byte.into()).collect(),
                    characters => encode_characters(characters, &document.text())?,
                };
                if ends_line(document, contents) {
                    tokens.extend(plain.encode("\n")?);
                }
                tokens
            }
        };
        Ok(tokens.into())
    }

    fn by_tokenizer(&self, document: &Document) -> Result<Vec<u32>> {
        let (is_first, is_last) = match document.kind {
            DocumentKind::Part { is_first, is_last } => (is_first, is_last),
            _ => (true, true),
        };
        let mut tokens = self.tokenizer.encode(&document.text(), is_first)?;
        let end = self.tokenizer.special().eos.filter(|end| tokens.last() != Some(end));
        tokens.extend(end.filter(|_| is_last));
        Ok(tokens)
    }

    fn example(&self, document: &Document) -> Result<Encoded> {
        let wrong = |reason| Error::Data { what: "the record".to_owned(), reason };
        let example = Example::parse(&document.text()).map_err(wrong)?;
        let sample = self.supervision.encode(&self.tokenizer, &example)?;
        if sample.counted() == 0 {
            return Err(wrong("nothing of it counts for the loss".to_owned()));
        }
        let (mut tokens, mut counts) = (sample.tokens, sample.counts);
        if !self.masks_prompts() {
            // Behind another text its first token is predicted, too.
            counts[0] = true;
        }
        if let Some(plain) = &self.plain {
            tokens.extend(plain.encode("\n")?);
            counts.push(true);
        }
        Ok(Encoded { tokens, counts: Some(counts) })
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// [`Error::Data`] for what the vocabulary does not have, [`Error::Setting`] for nothing.
    pub fn prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        match &self.plain {
            _ if prompt.is_empty() => {
                let range = "at least one character";
                Err(Error::Setting { setting: "--prompt", value: "empty".into(), range })
            }
            Some(vocabulary) => vocabulary.encode(prompt),
            None => self.tokenizer.encode(prompt, true),
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

/// As [`Vocabulary::encode`], whose error would hold all of a text that may be long.
fn encode_characters(vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>> {
    vocabulary.encode(text).map_err(|_| {
        let mut bytes = [0; 4];
        let is_unknown = |c: &char| vocabulary.encode(c.encode_utf8(&mut bytes)).is_err();
        let unknown = text.chars().find(is_unknown).unwrap_or_default();
        Error::Data {
            what: format!("the character {unknown:?}"),
            reason: "the vocabulary does not have it: the data have changed meanwhile".to_owned(),
        }
    })
}
