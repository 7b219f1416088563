//! A model as a folder that transformers and this program open.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::hugging_face::Export;
use evenkeel::run::{Ending, Signals, amount, check_space, folder, say};
use evenkeel::{Error, Precision, Result, file};
use indicatif::{ProgressBar, ProgressStyle};

use crate::loaded::Opened;

/// Names of types, as transformers, PyTorch and GGUF have them.
///
/// # Errors
/// The names that there are.
pub fn precision(name: &str) -> std::result::Result<Precision, String> {
    match &*name.to_ascii_lowercase() {
        "f32" | "float32" => Ok(Precision::F32),
        "f16" | "float16" => Ok(Precision::F16),
        "bf16" | "bfloat16" => Ok(Precision::Bf16),
        _ => Err("there are f32, f16 and bf16".to_owned()),
    }
}

/// Where a model is to be written.
#[derive(Debug)]
pub struct Target<'a> {
    pub path: &'a Path,
    /// The option that names it.
    pub option: &'static str,
    /// Whether files of the folder may be replaced.
    pub overwrite: bool,
    pub precision: Option<Precision>,
}

impl Target<'_> {
    /// Makes the folder if need be. What is read may not be written over, and what is there only
    /// where that is wanted.
    pub fn prepare(&self, read: &[&Path]) -> Result<()> {
        let refuse = |reason: String| Err(Error::File { path: self.path.to_owned(), reason });
        let option = self.option;
        let whole = |path: &Path| path.canonicalize().ok();
        if whole(self.path).is_some_and(|path| read.iter().any(|&r| whole(r) == Some(path.clone())))
        {
            return refuse(format!(
                "this is what is read, which stays as it is; choose another with {option}"
            ));
        }
        let has_files = fs::read_dir(self.path).is_ok_and(|mut entries| entries.next().is_some());
        if has_files && !self.overwrite {
            return refuse(format!(
                "there are files in this folder; choose another with {option}, or write over them \
                 with --overwrite"
            ));
        }
        folder::prepare(self.path, option)
    }

    /// Reads the model and writes it, with the files of its tokenizer beside it.
    pub async fn write(&self, opened: &Opened, export: Export) -> Result<Ending> {
        let export = match self.precision {
            Some(precision) => export.precision(precision),
            None => export,
        };
        let beside = opened.source.tokenizer_files()?;
        let loaded = opened.allocate().await?;
        let bytes = export.bytes(&loaded.parameters)?;
        let tokenizer: u64 = beside.values().map(|contents| contents.len() as u64).sum();
        check_space(self.path, bytes + tokenizer, self.option)?;
        let signals = Signals::listen()?;
        opened.read(&loaded).await?;
        let bar = bar(bytes);
        let saved = export
            .save_with(&loaded.parameters, self.path, |written, _| {
                bar.set_position(written);
                match signals.received() {
                    None => Ok(()),
                    Some(signal) => Err(Error::File {
                        path: self.path.to_owned(),
                        reason: format!("not written: {signal} came"),
                    }),
                }
            })
            .await;
        bar.finish_and_clear();
        if let (Err(_), Some(signal)) = (&saved, signals.received()) {
            return Ok(Ending::Stopped(signal));
        }
        saved?;
        for (name, contents) in beside {
            let path: PathBuf = self.path.join(name);
            if let Some(folder) = path.parent() {
                folder::prepare(folder, self.option)?;
            }
            file::replace(path, &contents)?;
        }
        say!("wrote {} with {} of weights", self.path.display(), amount(bytes));
        Ok(Ending::Done)
    }
}

/// Shown on the error output where that is a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let template = "writing {bar:40} {bytes}/{total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("a template");
    ProgressBar::new(bytes).with_style(style)
}
