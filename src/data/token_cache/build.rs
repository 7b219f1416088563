//! Texts become a file of tokens.

use std::path::Path;

use super::format::{head, padding, width};
use super::{CacheKey, Encoded, Piece};
use crate::data::{Fingerprint, parallel_map};
use crate::error::{Error, Result};
use crate::file::Replacement;

/// Texts are given to threads in pieces of about so many bytes.
const PIECE: usize = 1 << 18;
/// And of so many texts at most.
const TEXTS: usize = 1 << 12;

/// Tokens of some texts.
#[derive(Default)]
struct Several {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    /// Where the cache has a mask.
    counts: Vec<bool>,
}

/// A bit for each token.
#[derive(Default)]
struct Mask {
    bytes: Vec<u8>,
    bits: u64,
}

impl Mask {
    fn push(&mut self, counts: &[bool]) {
        for &counts in counts {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("just pushed");
            *last |= u8::from(counts) << (self.bits % 8);
            self.bits += 1;
        }
    }
}

/// A file that is being written.
struct Writer {
    file: Replacement,
    checksum: Fingerprint,
    width: usize,
    tokens: u64,
    ends: Vec<u64>,
    mask: Option<Mask>,
}

pub(super) fn build<P: Piece>(
    path: &Path,
    key: &CacheKey,
    pieces: impl IntoIterator<Item = Result<P>>,
    encode: impl Fn(&P) -> Result<Encoded> + Sync,
    mut progress: impl FnMut(u64, u64),
) -> Result<()> {
    let mut writer = Writer::create(path, key)?;
    let encode = |pieces: Vec<P>| {
        pieces.iter().try_fold(Several::default(), |mut several, piece| {
            let Encoded { tokens, counts } = encode_one(piece, key.vocabulary, &encode)?;
            if key.masked {
                several.counts.extend(counts.unwrap_or_else(|| vec![true; tokens.len()]));
            }
            several.lengths.push(tokens.len());
            several.ids.extend(tokens);
            Ok(several)
        })
    };
    parallel_map(Groups { pieces: pieces.into_iter() }, None, encode, |encoded| {
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

fn encode_one<P: Piece>(
    piece: &P,
    vocabulary: usize,
    encode: &impl Fn(&P) -> Result<Encoded>,
) -> Result<Encoded> {
    let wrong = |reason: String| Error::Data { what: piece.place(), reason };
    let encoded = encode(piece).map_err(|error| match error {
        Error::Data { what, reason } => wrong(format!("{what}: {reason}")),
        other => other,
    })?;
    if let Some(id) = encoded.tokens.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(wrong(format!(
            "it has the token {id}, and the vocabulary {vocabulary} tokens; take the tokenizer of \
             this vocabulary"
        )));
    }
    let (tokens, counts) = (encoded.tokens.len(), encoded.counts.as_ref().map(Vec::len));
    match counts {
        Some(counts) if counts != tokens => {
            Err(wrong(format!("it has {tokens} tokens, and for {counts} it is said if they count")))
        }
        _ => Ok(encoded),
    }
}

/// Some pieces at a time.
struct Groups<T> {
    pieces: T,
}

impl<P: Piece, T: Iterator<Item = Result<P>>> Iterator for Groups<T> {
    type Item = Result<Vec<P>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE && group.len() < TEXTS {
            match self.pieces.next() {
                None if group.is_empty() => return None,
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(piece)) => {
                    bytes += piece.bytes();
                    group.push(piece);
                }
            }
        }
        Some(Ok(group))
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
            mask: key.masked.then(Mask::default),
        };
        writer.put(&head(key))?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.add(bytes);
        self.file.write(bytes)
    }

    fn write(&mut self, Several { ids, lengths, counts }: &Several) -> Result<()> {
        // The first bytes of a number are its smallest.
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(self.width));
        self.put(&bytes.collect::<Vec<_>>())?;
        if let Some(mask) = &mut self.mask {
            mask.push(counts);
        }
        for &length in lengths {
            self.tokens += length as u64;
            self.ends.push(self.tokens);
        }
        Ok(())
    }

    fn put_numbers(&mut self, numbers: &[u64]) -> Result<()> {
        let bytes: Vec<_> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn finish(mut self) -> Result<()> {
        self.put(&vec![0; padding(self.tokens * self.width as u64)])?;
        let counts = [self.tokens, self.ends.len() as u64];
        let numbers = std::mem::take(&mut self.ends);
        for piece in numbers.chunks(PIECE) {
            self.put_numbers(piece)?;
        }
        if let Some(Mask { mut bytes, .. }) = self.mask.take() {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            self.put(&bytes)?;
        }
        self.put_numbers(&counts)?;
        let checksum = self.checksum.bytes();
        self.file.write(&checksum)?;
        self.file.put_in_place()
    }
}
