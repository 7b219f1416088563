//! How a cache lies in its file, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `EVENKEEL TOKENS\n` |
//! | 8 | length of the following |
//! | | JSON: version, fingerprints of tokenizer and source, bytes of a token, whether there is a mask; spaces up to a multiple of 8 |
//! | | tokens; zeros up to a multiple of 8 |
//! | 8 each | ends of the texts, counted in tokens |
//! | | with a mask a bit for each token, the lowest of a byte first: whether it counts; zeros up to a multiple of 8 |
//! | 8, 8 | number of tokens, number of texts |
//! | 16 | XXH3 of everything before |

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde_json::{Value, json};

use super::{CacheKey, Unusable};
use crate::data::Fingerprint;

const MAGIC: &[u8; 16] = b"EVENKEEL TOKENS\n";
const VERSION: u64 = 1;
/// Bytes of the counts and of the checksum behind them.
const COUNTS: u64 = 16;
const CHECKSUM: u64 = 16;
/// A head is never longer than this.
const LONGEST_HEAD: u64 = 1 << 20;
/// Bytes that are in memory at once while the checksum is computed.
const PIECE: u64 = 1 << 20;

/// Bytes of a token.
pub(super) fn width(vocabulary: usize) -> usize {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}

/// Zeros up to a multiple of 8.
pub(super) fn padding(length: u64) -> usize {
    (length.next_multiple_of(8) - length) as usize
}

/// The beginning of the file of a key.
pub(super) fn head(key: &CacheKey) -> Vec<u8> {
    let mut fields = json!({
        "version": VERSION,
        "tokenizer": key.tokenizer,
        "source": key.source,
        "width": width(key.vocabulary),
    });
    if key.masked {
        fields["masked"] = true.into();
    }
    let mut fields = fields.to_string();
    fields.push_str(&" ".repeat(padding(fields.len() as u64)));
    let length = (fields.len() as u64).to_le_bytes();
    [&MAGIC[..], &length, fields.as_bytes()].concat()
}

/// The beginning of a file.
pub(super) struct Head {
    bytes: Vec<u8>,
    fields: Value,
}

impl Head {
    pub(super) fn read(file: &mut File) -> Result<Self, Unusable> {
        let mut bytes = Vec::new();
        file.by_ref().take(24).read_to_end(&mut bytes)?;
        let is_beginning = MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]);
        if !is_beginning {
            let reason = "this is no cache of tokens; choose another name for it";
            return Err(Unusable::kept(reason));
        }
        let Some(length) = bytes.get(MAGIC.len()..).and_then(|rest| rest.try_into().ok()) else {
            return Err(Unusable::replaceable("it ends too early"));
        };
        let length = u64::from_le_bytes(length);
        let damaged = || Unusable::replaceable("its head is damaged");
        if length > LONGEST_HEAD {
            return Err(damaged());
        }
        file.by_ref().take(length).read_to_end(&mut bytes)?;
        let fields = serde_json::from_slice(&bytes[24..]).map_err(|_| damaged())?;
        Ok(Self { bytes, fields })
    }

    fn is_masked(&self) -> bool {
        self.fields.get("masked") == Some(&Value::Bool(true))
    }

    /// Makes sure that it is of this key.
    pub(super) fn check(&self, key: &CacheKey) -> Result<(), Unusable> {
        let is = |name: &str, expected: Value| self.fields.get(name) == Some(&expected);
        let differs = [
            (is("version", VERSION.into()), "it was written by another version"),
            (is("tokenizer", key.tokenizer.clone().into()), "it was made with another tokenizer"),
            (is("source", key.source.clone().into()), "it was made of other texts"),
            (self.is_masked() == key.masked, "it was made with another mask"),
            (self.bytes == head(key), "it was made for another vocabulary"),
        ];
        match differs.iter().find(|(is_same, _)| !is_same) {
            Some((_, reason)) => Err(Unusable::replaceable(*reason)),
            None => Ok(()),
        }
    }
}

/// What lies where.
#[derive(Debug)]
pub(super) struct Contents {
    pub tokens: u64,
    pub documents: u64,
    pub width: usize,
    /// Offset of the first token.
    pub start: u64,
    /// Offset of the first text's end.
    pub ends: u64,
    /// Offset of the mask, if there is one.
    pub mask: Option<u64>,
}

impl Contents {
    /// Reads all that is behind the head, and compares lengths and checksum.
    pub(super) fn read(file: &mut File, head: &Head) -> Result<Self, Unusable> {
        let (start, length) = (head.bytes.len() as u64, file.metadata()?.len());
        let early = || Unusable::replaceable("it ends too early");
        let counts = length.checked_sub(COUNTS + CHECKSUM).filter(|at| *at >= start);
        let counts = counts.ok_or_else(early)?;
        let found = checksum(file, length - CHECKSUM)?;
        let [mut tokens, mut documents, mut saved] = [[0; 8], [0; 8], [0; 8]];
        let mut rest = [0; 8];
        file.seek(SeekFrom::Start(counts))?;
        for field in [&mut tokens, &mut documents, &mut saved, &mut rest] {
            file.read_exact(field)?;
        }
        let damaged = || Unusable::replaceable("it is damaged: its checksum is another");
        if found[..] != [saved, rest].concat() {
            return Err(damaged());
        }
        let [tokens, documents] = [tokens, documents].map(u64::from_le_bytes);
        let width = head.fields["width"].as_u64().filter(|width| matches!(width, 2 | 4));
        let width = width.ok_or_else(damaged)?;
        let ends = tokens.checked_mul(width).map(|bytes| start + bytes.next_multiple_of(8));
        let behind = |ends: u64| ends.checked_add(documents.checked_mul(8)?);
        let bits = if head.is_masked() { tokens.div_ceil(8).next_multiple_of(8) } else { 0 };
        let whole = |&ends: &u64| behind(ends).and_then(|at| at.checked_add(bits)) == Some(counts);
        let ends = ends.filter(whole).ok_or_else(damaged)?;
        let mask = behind(ends).filter(|_| head.is_masked());
        Ok(Self { tokens, documents, width: width as usize, start, ends, mask })
    }
}

/// The checksum of the first bytes of a file.
fn checksum(file: &mut File, length: u64) -> io::Result<[u8; 16]> {
    let (mut hash, mut piece, mut left) = (Fingerprint::new(), Vec::new(), length);
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        piece.clear();
        let read = file.by_ref().take(left.min(PIECE)).read_to_end(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.add(&piece);
        left -= read as u64;
    }
    Ok(hash.bytes())
}
