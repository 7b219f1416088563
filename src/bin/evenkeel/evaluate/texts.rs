//! Loss, perplexity and bits per byte of texts.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::data::Sequence;
use evenkeel::text::{Completions, Examples, LossOn, Supervision, Tokenizer};
use evenkeel::{Error, Result};
use serde_json::json;

use super::{Measured, Measuring, Sizes, say_partial, text_of, wrong_line};
use crate::scores::{counted, pieces};

/// Texts in pieces.
#[derive(Debug, Default)]
pub struct Texts {
    files: Vec<PathBuf>,
    pieces: Vec<Sequence>,
    /// Bytes of the text that the counted tokens of each piece stand for.
    bytes: Vec<usize>,
}

/// Reads the texts of a file, or of the files of a folder.
pub fn read(path: &Path, tokenizer: &Tokenizer, sizes: Sizes, mask_prompt: bool) -> Result<Texts> {
    let mut texts = Texts { files: files(path)?, ..Texts::default() };
    for file in texts.files.clone() {
        if is_text(&file) {
            texts.add_text(&file, tokenizer, sizes)?;
        } else {
            texts.add_lines(&file, tokenizer, sizes, mask_prompt)?;
        }
    }
    if texts.pieces.iter().all(|piece| counted(piece) == 0) {
        let reason = "nothing in it counts: a token counts where there is one before it".to_owned();
        return Err(Error::Data { what: path.display().to_string(), reason });
    }
    Ok(texts)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

fn is_text(path: &Path) -> bool {
    has_extension(path, "txt")
}

/// The files that are read.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |reason: String| Error::File { path: path.to_owned(), reason };
    if path.is_dir() {
        let test = path.join("test.jsonl");
        if test.is_file() {
            return Ok(vec![test]);
        }
        let entries = fs::read_dir(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| is_text(file) || has_extension(file, "jsonl"));
        files.sort();
        return match files.is_empty() {
            true => Err(failed("there are no .txt and no .jsonl files in this folder".to_owned())),
            false => Ok(files),
        };
    }
    match is_text(path) || has_extension(path, "jsonl") {
        true => Ok(vec![path.to_owned()]),
        false => Err(failed(
            "texts are files with names that end with .txt or .jsonl, or a folder of such".into(),
        )),
    }
}

impl Texts {
    /// A whole file as one text.
    fn add_text(&mut self, file: &Path, tokenizer: &Tokenizer, sizes: Sizes) -> Result<()> {
        let (name, text) = text_of(file)?;
        let tokens = tokenizer.encode(&text, true);
        let tokens =
            tokens.map_err(|error| Error::Data { what: name, reason: error.to_string() })?;
        self.add(&tokens, |_| true, tokenizer, sizes)
    }

    /// A text of each line.
    fn add_lines(
        &mut self,
        file: &Path,
        tokenizer: &Tokenizer,
        sizes: Sizes,
        mask_prompt: bool,
    ) -> Result<()> {
        let examples = Examples::read(file)?;
        let is_chat = tokenizer.chat_template("default").is_some();
        let supervision = Supervision {
            loss_on: if mask_prompt { LossOn::Answers } else { LossOn::All },
            completions: if is_chat { Completions::Chat } else { Completions::Plain },
            ..Supervision::default()
        };
        for (index, example) in examples.examples().iter().enumerate().take(sizes.limit) {
            let sample = supervision
                .encode(tokenizer, example)
                .map_err(|error| wrong_line(examples.name(), index, error.to_string()))?;
            self.add(&sample.tokens, |at| sample.counts[at], tokenizer, sizes)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        tokens: &[u32],
        counts: impl Fn(usize) -> bool,
        tokenizer: &Tokenizer,
        sizes: Sizes,
    ) -> Result<()> {
        for piece in pieces(tokens, counts, sizes.context, sizes.stride) {
            if counted(&piece) > 0 {
                self.bytes.push(bytes(&piece, tokenizer)?);
                self.pieces.push(piece);
            }
        }
        Ok(())
    }

    /// Runs the model over all of them, or until a signal comes.
    pub async fn measure(&self, measuring: &Measuring<'_>) -> Result<Measured> {
        let scored = measuring.score("texts", &self.pieces, measuring.sizes.rows).await?;
        let done = || scored.iter().flat_map(|batch| &batch.sequences);
        say_partial(done().count(), self.pieces.len(), "pieces");
        let loss: f64 = scored.iter().map(|batch| batch.loss).sum();
        let tokens: usize = scored.iter().map(|batch| batch.counted).sum();
        let bytes: usize = done().map(|&index| self.bytes[index]).sum();
        let mean = (tokens > 0).then(|| loss / tokens as f64);
        let bits_per_byte = (bytes > 0).then(|| loss / std::f64::consts::LN_2 / bytes as f64);
        let text = |value: Option<f64>| value.map_or("none".to_owned(), |v| format!("{v:.4}"));
        let perplexity = mean.map(f64::exp);
        let line = format!(
            "loss {} over {tokens} tokens, perplexity {}, bits per byte {} over {bytes} bytes",
            text(mean),
            text(perplexity),
            text(bits_per_byte)
        );
        let values = json!({
            "loss": mean,
            "perplexity": perplexity,
            "bits_per_byte": bits_per_byte,
            "tokens": tokens,
            "bytes": bytes,
            "files": self.files,
        });
        Ok(Measured { values, line })
    }
}

/// Bytes of what the counted tokens of a piece stand for; special tokens are no text.
fn bytes(piece: &Sequence, tokenizer: &Tokenizer) -> Result<usize> {
    let is_counted = |target: &&u32| **target != evenkeel::train::IGNORE;
    let counted: Vec<_> = piece.targets.iter().filter(is_counted).copied().collect();
    Ok(tokenizer.decode(&counted, true)?.len())
}
