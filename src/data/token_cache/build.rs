//! Texts become a file of tokens.

use std::path::Path;

use super::CacheKey;
use super::format::{head, padding, width};
use crate::data::{Fingerprint, Text, parallel_map};
use crate::error::{Error, Result};
use crate::file::Replacement;

/// Texts are given to threads in pieces of about so many bytes.
const PIECE: usize = 1 << 18;
/// And of so many texts at most.
const TEXTS: usize = 1 << 12;

/// Tokens of some texts.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    lengths: Vec<usize>,
}

/// A file that is being written.
struct Writer {
    file: Replacement,
    checksum: Fingerprint,
    width: usize,
    tokens: u64,
    ends: Vec<u64>,
}

pub(super) fn build(
    path: &Path,
    key: &CacheKey,
    texts: impl IntoIterator<Item = Result<Text>>,
    encode: impl Fn(&str) -> Result<Vec<u32>> + Sync,
    mut progress: impl FnMut(u64, u64),
) -> Result<()> {
    let mut writer = Writer::create(path, key)?;
    let encode = |piece: Vec<Text>| {
        piece.iter().try_fold(Encoded::default(), |mut encoded, text| {
            let ids = encode_one(text, key.vocabulary, &encode)?;
            encoded.lengths.push(ids.len());
            encoded.ids.extend(ids);
            Ok(encoded)
        })
    };
    parallel_map(Pieces { texts: texts.into_iter() }, None, encode, |encoded| {
        writer.write(&encoded)?;
        progress(writer.ends.len() as u64, writer.tokens);
        Ok(())
    })?;
    if writer.tokens == 0 {
        let reason = "there are no tokens in the texts; give some to learn from".to_owned();
        return Err(Error::Data { what: path.display().to_string(), reason });
    }
    writer.finish()
}

fn encode_one(
    Text { place, text }: &Text,
    vocabulary: usize,
    encode: &impl Fn(&str) -> Result<Vec<u32>>,
) -> Result<Vec<u32>> {
    let wrong = |reason: String| Error::Data { what: place.clone(), reason };
    let ids = encode(text).map_err(|error| match error {
        Error::Data { what, reason } => wrong(format!("{what}: {reason}")),
        other => other,
    })?;
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        None => Ok(ids),
        Some(id) => Err(wrong(format!(
            "it has the token {id}, and the vocabulary {vocabulary} tokens; take the tokenizer of \
             this vocabulary"
        ))),
    }
}

/// Some texts at a time.
struct Pieces<T> {
    texts: T,
}

impl<T: Iterator<Item = Result<Text>>> Iterator for Pieces<T> {
    type Item = Result<Vec<Text>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE && piece.len() < TEXTS {
            match self.texts.next() {
                None if piece.is_empty() => return None,
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(text)) => {
                    bytes += text.text.len();
                    piece.push(text);
                }
            }
        }
        Some(Ok(piece))
    }
}

impl Writer {
    fn create(path: &Path, key: &CacheKey) -> Result<Self> {
        let mut writer = Self {
            file: Replacement::create(path)?,
            checksum: Fingerprint::new(),
            width: width(key.vocabulary),
            tokens: 0,
            ends: Vec::new(),
        };
        writer.put(&head(key))?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.add(bytes);
        self.file.write(bytes)
    }

    fn write(&mut self, Encoded { ids, lengths }: &Encoded) -> Result<()> {
        // The first bytes of a number are its smallest.
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(self.width));
        self.put(&bytes.collect::<Vec<_>>())?;
        for &length in lengths {
            self.tokens += length as u64;
            self.ends.push(self.tokens);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.put(&vec![0; padding(self.tokens * self.width as u64)])?;
        let counts = [self.tokens, self.ends.len() as u64];
        let numbers = std::mem::take(&mut self.ends);
        for piece in numbers.chunks(PIECE).chain([&counts[..]]) {
            let bytes: Vec<_> = piece.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.put(&bytes)?;
        }
        let checksum = self.checksum.bytes();
        self.file.write(&checksum)?;
        self.file.put_in_place()
    }
}
