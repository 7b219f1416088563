//! What is read before a device is asked for.

use std::path::{Path, PathBuf};

use evenkeel::data::Documents;
use evenkeel::hugging_face::Config;
use evenkeel::run::{Fingerprint, Signals, Source};
use evenkeel::text::vocabulary;
use evenkeel::{Error, Result};

use super::kind::Kind;
use super::lexicon::{self, Files};
use super::options::Options;
use super::place::{About, Place};
use super::settings::{Ground, resolve};
use super::tokens::{Source as Data, Tokens};

/// What is read before a device is asked for.
pub struct Prepared {
    /// The model that is gone on with: with its weights where the run begins, and what it is.
    pub source: Option<Source>,
    pub base: Option<Config>,
    pub tokens: Tokens,
    pub prompt: Vec<u32>,
}

impl Prepared {
    /// With what is made of the files with data, as soon as these are known.
    pub fn read<T>(
        place: &Place,
        signals: &Signals,
        check: impl FnOnce(&Documents) -> Result<T>,
    ) -> Result<(Self, T)> {
        let about = place.saved.as_ref().map(|saved| &saved.about);
        Self::with(&place.options, &place.out, about, Some(signals), check)
    }

    /// Of the run in the folder `out`, of which `about` says what it is.
    pub fn of(options: &Options, out: &Path, about: &About) -> Result<Self> {
        Self::with(options, out, Some(about), None, |_| Ok(())).map(|(prepared, ())| prepared)
    }

    /// Tokens that the model has.
    pub fn vocabulary(&self) -> usize {
        self.base.as_ref().map_or(self.tokens.lexicon.size, |base| base.gpt.vocabulary)
    }

    fn with<T>(
        options: &Options,
        out: &Path,
        about: Option<&About>,
        signals: Option<&Signals>,
        check: impl FnOnce(&Documents) -> Result<T>,
    ) -> Result<(Self, T)> {
        let kind = Kind::of(options)?;
        let Beginning { source, base, files } = Beginning::of(options, &kind, out, about)?;
        let data = Data::find(options, &kind, out, signals)?;
        let checked = check(&data.documents)?;
        let lexicon = data.lexicon(files, true)?;
        // It may take long to make all tokens.
        options.prompt.as_deref().map_or(Ok(()), |prompt| lexicon.prompt(prompt).map(drop))?;
        let tokens = data.tokens(lexicon)?;
        if let Some(about) = about {
            check_same(&tokens.name, &tokens.fingerprint, &about.tokens)?;
        }
        let prompt = tokens.prompt(options.prompt.as_deref())?;
        Ok((Self { source, base, tokens, prompt }, checked))
    }
}

/// What a run begins with, or has begun with.
pub struct Beginning {
    pub source: Option<Source>,
    pub base: Option<Config>,
    /// Of the tokenizer, where they are known before the data are.
    pub files: Option<Files>,
}

impl Beginning {
    pub fn of(options: &Options, kind: &Kind, out: &Path, about: Option<&About>) -> Result<Self> {
        let beginning = match about {
            // The folder of the run has all that its beginning was made of.
            Some(about) => {
                let base = about.model.as_deref().map(Config::from_json).transpose()?;
                Self { source: None, base, files: Some(lexicon::files_in(out)?) }
            }
            None => {
                kind.check()?;
                let opened =
                    options.model.as_ref().map(|_| open_model(options, kind)).transpose()?;
                let (source, files) = opened.unzip();
                let base = source.as_ref().map(|source: &Source| source.config().clone());
                Self { source, base, files }
            }
        };
        // What is wrong with settings shows before the data are read, whatever their vocabulary.
        let (base, vocabulary) = (beginning.base.as_ref(), vocabulary::SMALLEST);
        resolve(options, Ground { is_software: true, vocabulary, base })?;
        Ok(beginning)
    }
}

/// A model, and the files of the tokenizer that is taken: its own, or another one.
pub fn open_model(options: &Options, kind: &Kind) -> Result<(Source, Files)> {
    let path = options.model.clone().unwrap_or_default();
    let other = match kind {
        Kind::Path(path) if path.is_dir() => Some(path.clone()),
        Kind::Path(path) => path.parent().map(PathBuf::from),
        _ => None,
    };
    let source = Source::open(&path, other.as_deref())?;
    let files = match &other {
        Some(folder) => lexicon::files_in(folder)?,
        None if path.is_dir() => lexicon::files_in(&path)?,
        // A GGUF file describes its tokenizer.
        None => {
            let tokenizer = &source.tokenizer;
            let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
            let config = serde_json::json!({
                "bos_token": token(tokenizer.special().bos),
                "eos_token": token(tokenizer.special().eos),
            });
            Files::from([
                ("tokenizer.json".to_owned(), tokenizer.to_json()?),
                ("tokenizer_config.json".to_owned(), config.to_string().into_bytes()),
            ])
        }
    };
    Ok((source, files))
}

/// Makes sure that these are the data of a run that goes on.
pub fn check_same(name: &str, found: &Fingerprint, saved: &Fingerprint) -> Result<()> {
    if found == saved {
        return Ok(());
    }
    let reason = format!(
        "these are not the data that the run has learned so far ({} tokens here, {} there); give \
         those with --data, or begin another run with --out",
        found.tokens, saved.tokens
    );
    Err(Error::Data { what: name.to_owned(), reason })
}
