//! The data as tokens, in a file that a later start finds again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use evenkeel::data::{
    BadRecords, CacheKey, Document, DocumentKind, DocumentReader, Documents, Encoded, Piece,
    Reading, TextEncoding, TokenCache, parallel_map,
};
use evenkeel::run::{Fingerprint, Signals, TokenHash, folder, warn};
use evenkeel::{Error, Result};

use super::kind::Kind;
use super::learned;
use super::lexicon::{Files, Lexicon};
use super::options::Options;
use super::progress::Progress;

/// What was skipped is named this often.
const NAMED: usize = 5;
/// Tokens that a sample starts with, at most, where nothing was given.
const PROMPT: u64 = 32;
/// Bytes between two states of the progress.
const DRAWN: u64 = 1 << 18;
/// Tokens that are looked at together.
const SOME: u64 = 1 << 20;

/// Files with data, which are not tokens yet.
pub struct Source<'a> {
    pub documents: Documents,
    options: &'a Options,
    kind: &'a Kind,
    store: Store,
    /// What the data are known again by.
    fingerprint: String,
    signals: Option<&'a Signals>,
}

/// Where tokens and learned vocabularies are kept.
struct Store {
    folder: PathBuf,
    /// With those of other runs.
    is_shared: bool,
}

/// Tokens that are counted and not kept.
pub struct Count {
    pub fingerprint: Fingerprint,
    pub documents: u64,
}

/// Tokens in a file.
pub struct Tokens {
    /// Where the data come from.
    pub name: String,
    /// What the file of the tokens is known again by.
    pub key: CacheKey,
    pub lexicon: Lexicon,
    pub documents: Documents,
    pub cache: Arc<TokenCache>,
    pub fingerprint: Fingerprint,
    /// Tokens that count for the loss, if not all do.
    pub counted: Option<u64>,
}

impl<'a> Source<'a> {
    /// Looks for the data, and reads them once to know them again.
    ///
    /// # Errors
    /// What is not there or cannot be read.
    pub fn find(
        options: &'a Options,
        kind: &'a Kind,
        out: &Path,
        signals: Option<&'a Signals>,
    ) -> Result<Self> {
        let default = Reading::default();
        let encoding = options.encoding.as_deref().map(TextEncoding::named).transpose()?;
        let longest = options.longest_record.unwrap_or(default.longest);
        if longest == 0 {
            let (setting, value) = ("--longest-record", longest.to_string());
            return Err(Error::Setting { setting, value, range: "at least 1" });
        }
        if options.mask_prompt && options.field.is_some() {
            return Err(Error::Unsupported {
                what: "--mask-prompt with --field".to_owned(),
                instead: "a field has a text, and a text no prompt; leave one of them out"
                    .to_owned(),
            });
        }
        let reading = Reading {
            field: options.field.clone(),
            bad_records: options.bad_records.unwrap_or_default(),
            raw: *kind == Kind::Bytes,
            encoding: encoding.unwrap_or_default(),
            longest,
        };
        // What the run itself writes is no data of it.
        let own: Vec<_> = [Some(out), options.cache.as_deref()].into_iter().flatten().collect();
        let documents = Documents::find_outside(&options.data, &own, reading)?;
        let bar = Progress::bytes("looking at the data", options.quiet);
        let fingerprint = documents.fingerprint(|done, of| bar.show(done, of))?.to_string();
        bar.finish();
        let store = match &options.cache {
            Some(folder) => Store { folder: folder.clone(), is_shared: true },
            None => Store { folder: out.to_owned(), is_shared: false },
        };
        Ok(Self { documents, options, kind, store, fingerprint, signals })
    }

    /// The vocabulary: with the given files, or with those of a run that goes on; learned from the
    /// data if need be, and kept on request, so that it has to be learned only once.
    ///
    /// # Errors
    /// What is wrong with tokenizer and data.
    pub fn lexicon(&self, files: Option<Files>, is_kept: bool) -> Result<Lexicon> {
        let files = match (files, self.kind) {
            (Some(files), Kind::Bpe(_) | Kind::Path(_) | Kind::Model) => files,
            _ => self.files(is_kept)?,
        };
        Lexicon::new(self.kind, files, self.options.mask_prompt)
    }

    fn files(&self, is_kept: bool) -> Result<Files> {
        let learn = || {
            let what = match self.kind {
                Kind::Bpe(_) => "learning the vocabulary",
                _ => "looking for characters",
            };
            let bar = Progress::bytes(what, self.options.quiet);
            let mut reader = self.documents.read();
            let files = learned::learn(self.kind, self.watched(&mut reader, &bar));
            bar.finish();
            files
        };
        match self.kind {
            Kind::Characters | Kind::Bpe(_) => {
                let of = format!("{} {:?}", self.fingerprint, self.kind);
                let path = self.store.path(&of, "vocabulary");
                match learned::read(&path, &of) {
                    Some(files) => Ok(files),
                    None => {
                        let files = learn()?;
                        if is_kept {
                            self.store.prepare()?;
                            learned::write(&path, &of, &files)?;
                        }
                        Ok(files)
                    }
                }
            }
            other => learned::given(other),
        }
    }

    fn key(&self, lexicon: &Lexicon) -> CacheKey {
        CacheKey {
            tokenizer: lexicon.fingerprint(),
            source: self.fingerprint.clone(),
            vocabulary: lexicon.size,
            masked: lexicon.masks_prompts(),
        }
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.store.path(&format!("{} {}", key.tokenizer, key.source), "tokens")
    }

    /// Opens the tokens, or makes them in several threads.
    ///
    /// # Errors
    /// What is wrong with the data, and where the file cannot be written.
    pub fn tokens(self, lexicon: Lexicon) -> Result<Tokens> {
        let key = self.key(&lexicon);
        let cache = self.cache(&lexicon, &key, &self.path(&key))?;
        let (fingerprint, counted) = look_through(&cache)?;
        let name = self.name();
        let cache = Arc::new(cache);
        Ok(Tokens { name, key, lexicon, documents: self.documents, cache, fingerprint, counted })
    }

    /// The tokens of a rank that does not see the file of rank 0, with the key of that: in a file
    /// that no other rank writes.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens), and [`Error::Data`] where these are other data.
    pub fn tokens_of_rank(
        &self,
        lexicon: &Lexicon,
        key: &CacheKey,
        rank: usize,
    ) -> Result<TokenCache> {
        if self.key(lexicon) != *key {
            return Err(Error::Data {
                what: self.name(),
                reason: "these are other data than those that rank 0 finds under this name; copy \
                         them to every machine, or to a file system that all of them see"
                    .to_owned(),
            });
        }
        let path = self.path(key).with_extension(format!("rank-{rank}.tokens"));
        self.cache(lexicon, key, &path)
    }

    fn cache(&self, lexicon: &Lexicon, key: &CacheKey, path: &Path) -> Result<TokenCache> {
        self.store.prepare()?;
        let bar = Progress::bytes("tokenizing", self.options.quiet);
        let mut reader = self.documents.read();
        let refused = Mutex::new(Vec::new());
        let cache = {
            let documents = self.watched(&mut reader, &bar);
            let encode = |document: &Document| self.encode(lexicon, document, &refused);
            TokenCache::open_or_encode(path, key, || Ok(documents), encode, |_, _| {})
                .map_err(|error| with_another_folder(error, path))?
        };
        bar.finish();
        say_skipped(&reader, refused);
        Ok(cache)
    }

    /// How many texts there are, after a look at each.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn texts(&self) -> Result<u64> {
        let bar = Progress::bytes("reading", self.options.quiet);
        let mut reader = self.documents.read();
        let count =
            self.watched(&mut reader, &bar).try_fold(0, |count, one| one.map(|_| count + 1));
        bar.finish();
        say_skipped(&reader, Mutex::default());
        count
    }

    /// What [`tokens`](Self::tokens) would make. Nothing is written.
    ///
    /// # Errors
    /// As there.
    pub fn count(&self, lexicon: &Lexicon) -> Result<Count> {
        let key = self.key(lexicon);
        if let Ok(cache) = TokenCache::open(self.path(&key), &key) {
            let (fingerprint, _) = look_through(&cache)?;
            return Ok(Count { fingerprint, documents: cache.documents() });
        }
        let bar = Progress::bytes("tokenizing", self.options.quiet);
        let mut reader = self.documents.read();
        let refused = Mutex::new(Vec::new());
        let (mut hash, mut documents) = (TokenHash::default(), 0);
        let encode = |document: Document| self.encode(lexicon, &document, &refused);
        parallel_map(self.watched(&mut reader, &bar), None, encode, |encoded| {
            hash.add(&encoded.tokens);
            documents += 1;
            Ok(())
        })?;
        bar.finish();
        say_skipped(&reader, refused);
        Ok(Count { fingerprint: hash.fingerprint(), documents })
    }

    /// Of a record that is none there are no tokens, if such ones are to be left out.
    fn encode(
        &self,
        lexicon: &Lexicon,
        document: &Document,
        refused: &Mutex<Vec<String>>,
    ) -> Result<Encoded> {
        match lexicon.encode(document) {
            Err(Error::Data { what, reason }) if document.kind == DocumentKind::Example => {
                if self.documents.reading().bad_records == BadRecords::Fail {
                    let reason = format!("{reason} (--bad-records skip leaves such ones out)");
                    return Err(Error::Data { what, reason });
                }
                let reason = format!("{}: {what}: {reason}", document.place());
                refused.lock().expect("no panic while it was written").push(reason);
                Ok(Encoded::default())
            }
            other => other,
        }
    }

    /// The documents, as somebody may watch and interrupt them.
    fn watched<'r>(
        &'r self,
        reader: &'r mut DocumentReader,
        bar: &'r Progress,
    ) -> impl Iterator<Item = Result<Document>> + Send + 'r {
        let (signals, mut shown) = (self.signals, 0);
        std::iter::from_fn(move || {
            if signals.is_some_and(|signals| signals.received().is_some()) {
                let (what, reason) = ("the data".to_owned(), "reading was interrupted".to_owned());
                return Some(Err(Error::Data { what, reason }));
            }
            let next = reader.next();
            let (done, of) = reader.progress();
            // Records are small, and to draw takes longer than to read one.
            if done >= shown + DRAWN {
                bar.show(done, of);
                shown = done;
            }
            next
        })
    }

    fn name(&self) -> String {
        match self.documents.files() {
            [one] => one.display().to_string(),
            several => format!("{} files", several.len()),
        }
    }
}

/// Says of a file of tokens that cannot be written, such as where the disk is full, that it may lie
/// elsewhere.
fn with_another_folder(error: Error, of: &Path) -> Error {
    match error {
        Error::File { path, reason } if path == of => {
            let reason = format!("{reason}; another folder for the tokens is given with --cache");
            Error::File { path, reason }
        }
        other => other,
    }
}

fn say_skipped(reader: &DocumentReader, refused: Mutex<Vec<String>>) {
    let refused = refused.into_inner().expect("no panic while it was written");
    let skipped = reader.skipped();
    let count = skipped.count + refused.len() as u64;
    let first = skipped.first.iter().chain(&refused).take(NAMED);
    first.for_each(|what| warn(format!("skipped {what}")));
    if count > NAMED as u64 {
        warn(format!("and {} more were skipped", count - NAMED as u64));
    }
}

/// What the tokens are known again by, and how many count where some do not.
fn look_through(cache: &TokenCache) -> Result<(Fingerprint, Option<u64>)> {
    let (mut hash, mut counted) = (TokenHash::default(), 0);
    for start in (0..cache.tokens()).step_by(SOME as usize) {
        let range = start..(start + SOME).min(cache.tokens());
        hash.add(&cache.read(range.clone())?);
        if cache.is_masked() {
            counted += cache.counts(range)?.into_iter().filter(|counts| *counts).count() as u64;
        }
    }
    Ok((hash.fingerprint(), cache.is_masked().then_some(counted)))
}

impl Store {
    /// The file of what is known again by `of`.
    fn path(&self, of: &str, extension: &str) -> PathBuf {
        let name = match self.is_shared {
            true => evenkeel::data::Fingerprint::new().with(of.as_bytes()).to_string(),
            false => "data".to_owned(),
        };
        self.folder.join(format!("{name}.{extension}"))
    }

    fn prepare(&self) -> Result<()> {
        folder::prepare(&self.folder, if self.is_shared { "--cache" } else { "--out" })
    }
}

impl Tokens {
    /// The tokens of the prompt. Without one: the first line of the data, or what fits of it.
    ///
    /// # Errors
    /// [`Error::Data`] for what the vocabulary does not have, [`Error::Setting`] for nothing.
    pub fn prompt(&self, prompt: Option<&str>) -> Result<Vec<u32>> {
        if let Some(prompt) = prompt {
            return self.lexicon.prompt(prompt);
        }
        let mut beginning = self.cache.read(0..PROMPT.min(self.cache.tokens()))?;
        let ends = |id: &u32| {
            let text = self.lexicon.tokenizer.decode(&[*id], false);
            text.is_ok_and(|text| text.contains('\n'))
        };
        if let Some(end) = beginning.iter().position(ends) {
            beginning.truncate(end + 1);
        }
        Ok(beginning)
    }
}
