//! Tokens in a file: encoded once, read where they are needed.

mod build;
mod format;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::json_lines::Text;
use crate::error::{Error, Result};
use format::{Contents, Head};

/// What a cache must be made of to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey {
    /// What the tokenizer, and how it is used, is known again by, such as a
    /// [`Fingerprint`](super::Fingerprint) of `tokenizer.json`.
    pub tokenizer: String,
    /// What the texts, and how they are read, are known again by.
    pub source: String,
    /// Number of tokens that there are. Of at most 65,536 each takes two bytes, of more four.
    pub vocabulary: usize,
    /// Whether it is kept which tokens count for the loss, a bit for each.
    pub masked: bool,
}

/// A piece of the data, which is encoded by itself.
pub trait Piece: Send {
    /// The file, or file and line, as messages have them.
    fn place(&self) -> String;

    /// About how long it is, in bytes.
    fn bytes(&self) -> usize;
}

impl Piece for Text {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// The tokens of a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// In their order.
    pub tokens: Vec<u32>,
    /// Whether each counts for the loss where it is to be predicted; all do if there is none. A
    /// cache that is not [masked](CacheKey::masked) does not keep it.
    pub counts: Option<Vec<bool>>,
}

impl From<Vec<u32>> for Encoded {
    /// All of them count.
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, counts: None }
    }
}

/// The tokens of texts, one text after the other, in a file. However many there are, only those that
/// are asked for are in memory.
///
/// The file is written whole or not at all. It names tokenizer and source, and its checksum is
/// compared when it is opened, for which it is read once: a file that is not of this key, or damaged,
/// is made again.
///
/// ```
/// use evenkeel::data::{CacheKey, Text, TokenCache};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("train.tokens");
/// let (tokenizer, source) = ("bytes".into(), "two texts".into());
/// let key = CacheKey { tokenizer, source, vocabulary: 256, masked: false };
/// let text = |text: &str| Ok(Text { place: "here".into(), text: text.into() });
/// let texts = || Ok([text("ab"), text("c")]);
/// let encode = |text: &str| Ok(text.bytes().map(u32::from).collect());
/// let cache = TokenCache::open_or_build(&path, &key, texts, encode, |_, _| {})?;
/// assert_eq!((cache.tokens(), cache.documents()), (3, 2));
/// assert_eq!(cache.read(1..3)?, [98, 99]);
/// assert_eq!(cache.document(0)?, 0..2);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct TokenCache {
    path: PathBuf,
    file: Mutex<File>,
    contents: Contents,
    because: Option<String>,
}

impl TokenCache {
    /// Opens a cache, and reads it once.
    ///
    /// # Errors
    /// [`Error::File`] where there is none, where it is of another key, and where it is damaged.
    pub fn open(path: impl AsRef<Path>, key: &CacheKey) -> Result<Self> {
        let path = path.as_ref();
        Self::look(path, key).map_err(|why| failed(path, why.reason))
    }

    /// Opens a cache, or makes it of `texts`: each is encoded by itself, in several threads, with
    /// the tokens in the order of the texts. `progress` is told the texts and tokens that are done.
    ///
    /// Beside tokens that are under way, 8 bytes for each text are in memory meanwhile.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be written, and where there is a file that is no cache,
    /// which stays; [`Error::Data`] for tokens beyond the vocabulary and where there are none; and
    /// what goes wrong with a text. The file is there as it was then.
    pub fn open_or_build<T: IntoIterator<Item = Result<Text>>>(
        path: impl AsRef<Path>,
        key: &CacheKey,
        texts: impl FnOnce() -> Result<T>,
        encode: impl Fn(&str) -> Result<Vec<u32>> + Sync,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let encode = |text: &Text| Ok(encode(&text.text)?.into());
        Self::open_or_encode(path, key, texts, encode, progress)
    }

    /// The same with pieces of any kind, each of which is a text of the cache, and of which some
    /// tokens may not count for the loss. A mask takes a bit for each token in memory meanwhile.
    ///
    /// # Errors
    /// As [`open_or_build`](Self::open_or_build).
    pub fn open_or_encode<P: Piece, T: IntoIterator<Item = Result<P>>>(
        path: impl AsRef<Path>,
        key: &CacheKey,
        pieces: impl FnOnce() -> Result<T>,
        encode: impl Fn(&P) -> Result<Encoded> + Sync,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let path = path.as_ref();
        let why = match Self::look(path, key) {
            Ok(cache) => return Ok(cache),
            Err(why) if why.may_replace => why,
            Err(why) => return Err(failed(path, why.reason)),
        };
        build::build(path, key, pieces()?, encode, progress)?;
        let cache = Self::open(path, key)?;
        Ok(Self { because: Some(why.reason), ..cache })
    }

    fn look(path: &Path, key: &CacheKey) -> Result<Self, Unusable> {
        let mut file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unusable::replaceable("there is no cache yet"),
            _ => Unusable::kept(format!("the tokens cannot be read: {error}")),
        })?;
        let head = Head::read(&mut file)?;
        head.check(key)?;
        let contents = Contents::read(&mut file, &head)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), contents, because: None })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why it was made just now; None if it was there.
    pub fn made_because(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// Number of tokens of all texts.
    pub fn tokens(&self) -> u64 {
        self.contents.tokens
    }

    /// Number of texts.
    pub fn documents(&self) -> u64 {
        self.contents.documents
    }

    /// Where the tokens of a text are.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read.
    ///
    /// # Panics
    /// If there is no text with this number.
    pub fn document(&self, index: u64) -> Result<Range<u64>> {
        let documents = self.contents.documents;
        assert!(index < documents, "text {index} of {documents}");
        // The end of the text before, if there is one, and its own.
        let first = index.saturating_sub(1);
        let ends =
            self.read_at(self.contents.ends + 8 * first, (index + 1 - first) as usize * 8)?;
        let ends: Vec<_> = ends.as_chunks().0.iter().map(|&end| u64::from_le_bytes(end)).collect();
        Ok(if index == 0 { 0..ends[0] } else { ends[0]..ends[1] })
    }

    /// The text that a token is of.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read.
    ///
    /// # Panics
    /// If there is no token at this position.
    pub fn document_of(&self, token: u64) -> Result<u64> {
        assert!(token < self.contents.tokens, "token {token} of {}", self.contents.tokens);
        // The first text that ends behind it.
        let (mut low, mut high) = (0, self.contents.documents - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document(middle)?.end > token { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    /// Whether it is kept which tokens count for the loss.
    pub fn is_masked(&self) -> bool {
        self.contents.mask.is_some()
    }

    /// Whether the tokens at these positions count for the loss where they are to be predicted.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read.
    ///
    /// # Panics
    /// If the range goes beyond the end.
    pub fn counts(&self, range: Range<u64>) -> Result<Vec<bool>> {
        let tokens = self.contents.tokens;
        assert!(range.start <= range.end && range.end <= tokens, "{range:?} of {tokens} tokens");
        let count = (range.end - range.start) as usize;
        let Some(mask) = self.contents.mask.filter(|_| count > 0) else {
            return Ok(vec![true; count]);
        };
        let first = range.start / 8;
        let bytes = self.read_at(mask + first, (range.end.div_ceil(8) - first) as usize)?;
        let bit = |at: u64| bytes[(at / 8 - first) as usize] >> (at % 8) & 1 == 1;
        Ok(range.map(bit).collect())
    }

    /// The tokens at these positions.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read.
    ///
    /// # Panics
    /// If the range goes beyond the end.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let Contents { start, width, tokens, .. } = self.contents;
        assert!(range.start <= range.end && range.end <= tokens, "{range:?} of {tokens} tokens");
        let count = (range.end - range.start) as usize;
        let bytes = self.read_at(start + range.start * width as u64, count * width)?;
        Ok(match width {
            2 => bytes.as_chunks().0.iter().map(|&id| u16::from_le_bytes(id).into()).collect(),
            _ => bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)).collect(),
        })
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut file = self.file.lock().expect("no panic while it was read");
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| failed(&self.path, format!("the tokens cannot be read: {error}")))?;
        Ok(bytes)
    }
}

fn failed(path: &Path, reason: String) -> Error {
    Error::File { path: path.to_owned(), reason }
}

/// Why a file cannot be used.
struct Unusable {
    reason: String,
    /// Whether another may be put in its place.
    may_replace: bool,
}

impl Unusable {
    fn replaceable(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), may_replace: true }
    }

    fn kept(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), may_replace: false }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::replaceable("it ends too early"),
            _ => Self::kept(format!("the tokens cannot be read: {error}")),
        }
    }
}
