//! What is a token.

use std::path::PathBuf;

use evenkeel::text::vocabulary;
use evenkeel::{Error, Result};

use super::options::Options;

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
