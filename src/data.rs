//! Text for language models: a vocabulary, a split, and batches of windows.
//!
//! A [`Corpus`] is a text as tokens. [`Corpus::new`] takes what [`decode`] takes for text, and its
//! characters are the vocabulary; [`Corpus::bytes`] takes anything, and the 256 bytes are.
//! [`Windows`] cuts batches from a part of it: batch `index` of a seed is always the same, whatever
//! was drawn before, so a run can be resumed or repeated exactly. [`PaddedBatches`] are of examples of
//! all lengths.
//!
//! Natively, data may be larger than memory: a [`RecordReader`] reads records one by one,
//! `Documents` files of all kinds, a [`TokenCache`] keeps their tokens in a file, [`CachedWindows`]
//! cuts batches from it, and [`Prefetch`] makes batches of any kind ahead of the device.

#[cfg(not(target_arch = "wasm32"))]
mod cached_windows;
mod decode;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
mod document_reader;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
mod documents;
#[cfg(not(target_arch = "wasm32"))]
mod fingerprint;
#[cfg(not(target_arch = "wasm32"))]
mod json_lines;
#[cfg(not(target_arch = "wasm32"))]
mod lines;
#[cfg(not(target_arch = "wasm32"))]
mod object;
#[cfg(not(target_arch = "wasm32"))]
mod parallel;
#[cfg(all(feature = "parquet", not(target_arch = "wasm32")))]
mod parquet_rows;
#[cfg(not(target_arch = "wasm32"))]
mod prefetch;
#[cfg(not(target_arch = "wasm32"))]
mod read;
mod sequences;
mod shuffle;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
mod text_parts;
#[cfg(not(target_arch = "wasm32"))]
mod token_cache;

#[cfg(not(target_arch = "wasm32"))]
pub use cached_windows::{CachedWindows, WindowOrder, WindowSource};
#[cfg(not(target_arch = "wasm32"))]
pub use fingerprint::Fingerprint;
#[cfg(not(target_arch = "wasm32"))]
pub use json_lines::{JsonRecord, RecordOptions, RecordReader, Skipped, Text};
#[cfg(not(target_arch = "wasm32"))]
pub use lines::TextEncoding;
#[cfg(not(target_arch = "wasm32"))]
pub use parallel::parallel_map;
#[cfg(not(target_arch = "wasm32"))]
pub use prefetch::{BatchSource, LoaderStatistics, Prefetch, SeededBatches};
pub use shuffle::Shuffle;
#[cfg(not(target_arch = "wasm32"))]
pub use token_cache::{CacheKey, Encoded, Piece, TokenCache};

pub use decode::decode;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
pub use document_reader::DocumentReader;
#[cfg(all(feature = "run", not(target_arch = "wasm32")))]
pub use documents::{BadRecords, Document, DocumentKind, Documents, Reading};
#[cfg(not(target_arch = "wasm32"))]
pub use read::{LARGEST, read};
pub use sequences::{PaddedBatches, Padding, Sequence};

use crate::error::{Error, Result};
use crate::reference::random::threefry4x32;
use crate::train::Batch;

/// Last key word of the random streams of windows; dropout, initialisers and sampling have others.
const DOMAIN_WINDOWS: u32 = 3;

/// What the tokens of a text are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// The characters of a text, in ascending order; a token is an index into them.
    Characters(Vec<char>),
    /// All 256 bytes, for files that are no text.
    Bytes,
}

impl Vocabulary {
    /// The characters that occur in `text`.
    pub fn of(text: &str) -> Self {
        let mut occurs = vec![false; char::MAX as usize + 1];
        text.chars().for_each(|character| occurs[character as usize] = true);
        Self::Characters(('\0'..=char::MAX).filter(|&c| occurs[c as usize]).collect())
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        match self {
            Self::Characters(characters) => characters.len(),
            Self::Bytes => 256,
        }
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`Error::Data`] names the first character that the vocabulary does not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Self::Characters(characters) = self else {
            return Ok(text.bytes().map(u32::from).collect());
        };
        let token = |(position, c): (usize, char)| match characters.binary_search(&c) {
            Ok(token) => Ok(token as u32),
            Err(_) => Err(Error::Data {
                what: format!("the character {c:?} at position {position} of {text:?}"),
                reason: format!(
                    "the vocabulary does not have it; use characters that occur in the training \
                     text ({} of them, {:?} to {:?})",
                    characters.len(),
                    characters.first().copied().unwrap_or_default(),
                    characters.last().copied().unwrap_or_default(),
                ),
            }),
        };
        text.chars().enumerate().map(token).collect()
    }

    /// The text of tokens. What is no token, or no UTF-8 where tokens are bytes, becomes U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.bytes(tokens)).into_owned()
    }

    /// The bytes of tokens, to write them one by one as they come. A character that is no token
    /// becomes U+FFFD, a byte that is none 0xFF, which UTF-8 does not have.
    pub fn bytes(&self, tokens: &[u32]) -> Vec<u8> {
        match self {
            Self::Characters(characters) => {
                let character = |&token: &u32| characters.get(token as usize).copied();
                let known = tokens.iter().map(|t| character(t).unwrap_or('\u{fffd}'));
                known.collect::<String>().into_bytes()
            }
            Self::Bytes => tokens.iter().map(|&t| u8::try_from(t).unwrap_or(0xff)).collect(),
        }
    }
}

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    name: String,
    vocabulary: Vocabulary,
    tokens: Vec<u32>,
}

/// The two parts of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// To train on: the beginning.
    pub training: Windows<'a>,
    /// To measure on: the end, never trained on.
    pub validation: Windows<'a>,
}

/// A run of tokens that windows of `context + 1` are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows<'a> {
    tokens: &'a [u32],
    context: usize,
}

impl Corpus {
    /// A text, its characters as tokens. What is text, and what is made of marks and ends of lines,
    /// is said at [`decode`]. `name` stands in messages.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty text, and for what is none.
    pub fn new(name: impl Into<String>, text: &[u8]) -> Result<Self> {
        let name = name.into();
        let decoded = decode(&name, text)?;
        if decoded.is_empty() {
            return Err(empty(name, !text.is_empty()));
        }
        let vocabulary = Vocabulary::of(&decoded);
        let tokens = vocabulary.encode(&decoded)?;
        Ok(Self { name, vocabulary, tokens })
    }

    /// Anything, byte by byte, as it is: neither marks nor ends of lines are changed.
    ///
    /// # Errors
    /// [`Error::Data`] where there are none.
    pub fn bytes(name: impl Into<String>, bytes: &[u8]) -> Result<Self> {
        let name = name.into();
        if bytes.is_empty() {
            return Err(empty(name, false));
        }
        let tokens = bytes.iter().map(|&byte| byte.into()).collect();
        Ok(Self { name, vocabulary: Vocabulary::Bytes, tokens })
    }

    /// A file of text.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be [`read`], and as [`new`](Self::new).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path.display().to_string(), &read(path)?)
    }

    /// Where the text comes from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the tokens are.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The whole text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The last `share` of the text for validation, at least one window of `context` inputs and
    /// their targets, and the rest for training.
    ///
    /// # Errors
    /// [`Error::Data`] where the text is too short for a window in each part, and
    /// [`Error::Setting`] for a share that is not in [0, 1).
    pub fn split(&self, share: f64, context: usize) -> Result<Split<'_>> {
        Split::of(&self.name, &self.tokens, share, context)
    }
}

impl<'a> Split<'a> {
    /// The parts of tokens, as those of a corpus; see [`Corpus::split`]. `name` stands in messages.
    ///
    /// # Errors
    /// As [`Corpus::split`].
    pub fn of(name: &str, tokens: &'a [u32], share: f64, context: usize) -> Result<Self> {
        let validation = validation_length(name, tokens.len() as u64, share, context)?;
        let (training, validation) = tokens.split_at(tokens.len() - validation as usize);
        let windows = |tokens| Windows { tokens, context };
        Ok(Split { training: windows(training), validation: windows(validation) })
    }
}

impl Windows<'_> {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// First tokens of the `count` windows of batch `index`: uniform, with replacement.
    pub fn starts(&self, seed: u32, index: u64, count: usize) -> impl Iterator<Item = usize> {
        let positions = (self.tokens.len() - self.context) as u64;
        window_starts(positions, seed, index, count).map(|start| start as usize)
    }

    /// Batch `index` of a seed: `count` windows as inputs `tokens` and `targets`, the latter one
    /// token ahead. The same arguments always give the same batch.
    pub fn batch(&self, seed: u32, index: u64, count: usize) -> Batch {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for start in self.starts(seed, index, count) {
            let window = &self.tokens[start..=start + self.context];
            tokens.extend_from_slice(&window[..self.context]);
            targets.extend_from_slice(&window[1..]);
        }
        Batch::new().with("tokens", tokens).with("targets", targets)
    }
}

/// Tokens for validation of so many: the share, at least a window in each part.
fn validation_length(name: &str, length: u64, share: f64, context: usize) -> Result<u64> {
    if !(0.0..1.0).contains(&share) {
        let (setting, value) = ("share of the text for validation", share.to_string());
        return Err(Error::Setting { setting, value, range: "in [0, 1)" });
    }
    let window = (context as u64).saturating_add(1);
    let needed = window.saturating_mul(2);
    if length < needed {
        let advice = match (length / 2).saturating_sub(1) {
            0 => "give a longer text".into(),
            fits => format!("give a longer text, or a context of at most {fits}"),
        };
        return Err(Error::Data {
            what: name.to_owned(),
            reason: format!(
                "the text has {length} tokens, but a context of {context} needs {needed} (a \
                 window of {window} to train on and one to validate on); {advice}"
            ),
        });
    }
    Ok(((length as f64 * share) as u64).clamp(window, length - window))
}

/// Positions below `positions` for the windows of batch `index`.
fn window_starts(positions: u64, seed: u32, index: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count).map(move |window| {
        let counter = [window as u32, index as u32, (index >> 32) as u32, 0];
        let [high, low, ..] = threefry4x32(counter, [seed, 0, 0, DOMAIN_WINDOWS]);
        let word = (u128::from(high) << 32) | u128::from(low);
        ((word * u128::from(positions)) >> 64) as u64
    })
}

fn empty(what: String, marked: bool) -> Error {
    let held = if marked { " (there is a byte-order mark and nothing else)" } else { "" };
    let reason = format!("the text is empty{held}; give one with something to learn from");
    Error::Data { what, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(length: usize) -> Corpus {
        let text: String = (0..length).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        Corpus::new("alphabet", text.as_bytes()).unwrap()
    }

    #[test]
    fn text_has_its_characters_and_anything_else_bytes() {
        let text = Corpus::new("text", "böse\nTür".as_bytes()).unwrap();
        let expected = Vocabulary::Characters("\nTberösü".chars().collect::<Vec<_>>());
        let Vocabulary::Characters(mut sorted) = expected else { unreachable!() };
        sorted.sort_unstable();
        assert_eq!(text.vocabulary(), &Vocabulary::Characters(sorted));
        assert_eq!(text.tokens().len(), 8);
        assert_eq!(text.vocabulary().decode(text.tokens()), "böse\nTür");
        assert_eq!(text.vocabulary().encode("Tür").unwrap(), text.tokens()[5..]);

        let error = Corpus::new("latin1.txt", b"b\xf6se").unwrap_err().to_string();
        assert!(error.starts_with("latin1.txt: byte 0xF6 at offset 1 (line 1)"), "{error}");
        let error = Corpus::new("mark.txt", b"\xff\xfe").unwrap_err().to_string();
        let mark = "the text is empty (there is a byte-order mark and nothing else)";
        assert!(error.starts_with(&format!("mark.txt: {mark}")), "{error}");
        let bytes = Corpus::bytes("bytes", b"b\xf6se").unwrap();
        assert_eq!((bytes.vocabulary().size(), bytes.tokens()), (256, &[98, 246, 115, 101][..]));
        assert_eq!(bytes.vocabulary().encode("ö").unwrap(), [0xc3, 0xb6]);
        assert_eq!(bytes.vocabulary().decode(&[0xc3, 0xb6, 0xf6, 300]), "ö\u{fffd}\u{fffd}");
    }

    #[test]
    fn marks_and_line_ends_are_no_tokens() {
        let expected = Corpus::new("text", "öl\nTür".as_bytes()).unwrap();
        let wide = "\u{feff}öl\r\nTür".encode_utf16().flat_map(u16::to_le_bytes);
        let wide = Corpus::new("text", &wide.collect::<Vec<_>>()).unwrap();
        assert_eq!(wide, expected);
        assert_eq!(Corpus::new("text", "\u{feff}öl\rTür".as_bytes()).unwrap(), expected);
        // Bytes are what the file holds.
        assert_eq!(Corpus::bytes("text", b"\xff\xfea\r\n").unwrap().tokens().len(), 5);
    }

    #[test]
    fn unknown_characters_are_named() {
        let error = corpus(9).vocabulary().encode("ab7").unwrap_err().to_string();
        assert!(error.contains("'7' at position 2") && error.contains("'a' to 'i'"), "{error}");
        assert_eq!(corpus(3).vocabulary().decode(&[0, 3]), "a\u{fffd}");
    }

    #[test]
    fn the_end_is_for_validation() {
        let corpus = corpus(1000);
        let split = corpus.split(0.1, 8).unwrap();
        assert_eq!((split.training.tokens(), split.validation.tokens()), (900, 100));
        assert_eq!(split.validation.tokens, &corpus.tokens()[900..]);
        // At least a window, whatever the share.
        assert_eq!(corpus.split(0.1, 200).unwrap().validation.tokens(), 201);
        assert_eq!(corpus.split(0.0, 499).unwrap().validation.tokens(), 500);
        assert_eq!(corpus.split(0.999, 499).unwrap().training.tokens(), 500);
        assert!(corpus.split(1.0, 8).is_err() && corpus.split(f64::NAN, 8).is_err());
    }

    #[test]
    fn bad_texts_are_refused() {
        let error = Corpus::new("nothing.txt", b"").unwrap_err().to_string();
        assert!(error.contains("nothing.txt: the text is empty"), "{error}");
        assert!(Corpus::bytes("nothing.bin", b"").is_err());
        for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"] {
            let error = Corpus::new("mark.txt", mark).unwrap_err().to_string();
            assert!(error.contains("mark.txt: the text is empty (there is a byte-"), "{error}");
        }
        let error = corpus(129).split(0.1, 64).unwrap_err().to_string();
        let parts = ["alphabet", "has 129 tokens", "context of 64 needs 130", "at most 63"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(corpus(130).split(0.1, 64).is_ok());
        let error = corpus(2).split(0.1, 64).unwrap_err().to_string();
        assert!(error.ends_with("give a longer text"), "{error}");
        let error = Corpus::read("no/such/file.txt").unwrap_err().to_string();
        assert!(error.starts_with("no/such/file.txt: the text cannot be read"), "{error}");
    }

    #[test]
    fn a_batch_depends_on_seed_and_index_alone() {
        let corpus = corpus(1000);
        let windows = corpus.split(0.1, 8).unwrap().training;
        let batch = windows.batch(7, 3, 5);
        drop(windows.batch(7, 4, 5));
        assert_eq!(windows.batch(7, 3, 5), batch);
        assert_ne!(windows.batch(7, 4, 5), batch);
        assert_ne!(windows.batch(8, 3, 5), batch);
        assert_ne!(windows.batch(7, 3 + (1 << 32), 5), batch);
        // Fewer windows are the first of more.
        let starts: Vec<_> = windows.starts(7, 3, 5).collect();
        assert_eq!(windows.starts(7, 3, 3).collect::<Vec<_>>(), starts[..3]);
        let cut = |shift| {
            let window = |&start: &usize| &corpus.tokens()[start + shift..][..8];
            starts.iter().flat_map(window).copied().collect::<Vec<u32>>()
        };
        let expected = Batch::new().with("tokens", cut(0)).with("targets", cut(1));
        assert_eq!(batch, expected);
    }

    #[test]
    fn windows_reach_both_ends_evenly() {
        let corpus = corpus(26);
        let windows = corpus.split(0.0, 4).unwrap().training; // 21 tokens, 17 windows
        let mut counts = [0; 17];
        for index in 0..100 {
            windows.starts(1, index, 100).for_each(|start| counts[start] += 1);
        }
        // Each count is binomial: 588 expected, standard deviation 24.
        assert!(counts.iter().all(|&count| (468..=708).contains(&count)), "{counts:?}");
        assert_eq!(corpus.split(0.9, 12).unwrap().training.starts(1, 0, 9).max(), Some(0));
    }
}
