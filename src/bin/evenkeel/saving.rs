//! A model as a folder that transformers and this program open, or as a file of llama.cpp's.

mod gguf;

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::hugging_face::Export;
use evenkeel::nn::Lora;
use evenkeel::run::{Ending, Signals, amount, check_space, folder, say};
use evenkeel::{Error, Precision, Result, file};
use indicatif::{ProgressBar, ProgressStyle};

use crate::loaded::{Loaded, Opened};
pub use gguf::{GgufTarget, is_gguf};

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

/// What a model is written as, with nothing wrong that shows before its weights are read.
#[derive(Debug)]
pub enum Output<'a> {
    Folder { target: Target<'a>, export: Export },
    Gguf { target: GgufTarget, export: evenkeel::gguf::Export },
}

impl Output<'_> {
    fn prepare(&self, read: &[&Path]) -> Result<()> {
        match self {
            Self::Folder { target, .. } => target.prepare(read),
            Self::Gguf { target, .. } => target.prepare(read),
        }
    }

    fn place(&self) -> (&Path, &'static str) {
        match self {
            Self::Folder { target, .. } => (target.path, target.option),
            Self::Gguf { target, .. } => (target.folder(), target.option),
        }
    }
}

/// Reads a model once, and writes it as each of these. What is read may not be written over.
pub async fn write(opened: &Opened, outputs: &[Output<'_>], read: &[&Path]) -> Result<Ending> {
    outputs.iter().try_for_each(|output| output.prepare(read))?;
    let loaded = opened.allocate().await?;
    let mut bytes = 0;
    for output in outputs {
        bytes += match output {
            Output::Folder { target, export } => target.bytes(opened, &loaded, export)?,
            Output::Gguf { export, .. } => export.bytes(&loaded.parameters)?,
        };
        let (folder, option) = output.place();
        check_space(folder, bytes, option)?;
    }
    let signals = Signals::listen()?;
    opened.read(&loaded).await?;
    for output in outputs {
        let written = match output {
            Output::Folder { target, export } => {
                target.write(opened, &loaded, export, &signals).await
            }
            Output::Gguf { target, export } => target.write(&loaded, export, &signals).await,
        };
        if let (Err(_), Some(signal)) = (&written, signals.received()) {
            return Ok(Ending::Stopped(signal));
        }
        written?;
    }
    Ok(Ending::Done)
}

/// A folder where a model is to be written.
#[derive(Debug)]
pub struct Target<'a> {
    pub path: &'a Path,
    /// The option that names it.
    pub option: &'static str,
    /// Whether files of the folder may be replaced.
    pub overwrite: bool,
}

impl<'a> Target<'a> {
    /// Makes the folder if need be. What is read may not be written over, and what is there only
    /// where that is wanted.
    fn prepare(&self, read: &[&Path]) -> Result<()> {
        check_apart(self.path, read, self.option)?;
        let option = self.option;
        let has_files = fs::read_dir(self.path).is_ok_and(|mut entries| entries.next().is_some());
        if has_files && !self.overwrite {
            let reason = format!(
                "there are files in this folder; choose another with {option}, or write over them \
                 with --overwrite"
            );
            return Err(Error::File { path: self.path.to_owned(), reason });
        }
        folder::prepare(self.path, option)
    }

    /// The model in this type or those that it came in, with an adapter as a part of it.
    pub fn output(
        self,
        opened: &Opened,
        precision: Option<Precision>,
        lora: Option<&Lora>,
    ) -> Output<'a> {
        let export = opened.source.export();
        let export = precision.into_iter().fold(export, Export::precision);
        let export = lora.into_iter().fold(export, |export, lora| export.merged(lora));
        Output::Folder { target: self, export }
    }

    fn bytes(&self, opened: &Opened, loaded: &Loaded, export: &Export) -> Result<u64> {
        let beside = opened.source.tokenizer_files()?;
        let tokenizer: u64 = beside.values().map(|contents| contents.len() as u64).sum();
        Ok(export.bytes(&loaded.parameters)? + tokenizer)
    }

    /// Writes the model, with the files of its tokenizer beside it.
    async fn write(
        &self,
        opened: &Opened,
        loaded: &Loaded,
        export: &Export,
        signals: &Signals,
    ) -> Result<()> {
        let beside = opened.source.tokenizer_files()?;
        let bytes = export.bytes(&loaded.parameters)?;
        let bar = bar(bytes);
        let tell = |written, _| told(&bar, written, self.path, signals);
        let saved = export.save_with(&loaded.parameters, self.path, tell).await;
        bar.finish_and_clear();
        saved?;
        for (name, contents) in beside {
            let path: PathBuf = self.path.join(name);
            if let Some(folder) = path.parent() {
                folder::prepare(folder, self.option)?;
            }
            file::replace(path, &contents)?;
        }
        say!("wrote {} with {} of weights", self.path.display(), amount(bytes));
        Ok(())
    }
}

/// Fails where a model would be written over what is read.
fn check_apart(path: &Path, read: &[&Path], option: &str) -> Result<()> {
    let whole = |path: &Path| path.canonicalize().ok();
    let Some(found) = whole(path) else { return Ok(()) };
    if read.iter().all(|&read| whole(read).as_ref() != Some(&found)) {
        return Ok(());
    }
    let reason =
        format!("this is what is read, which stays as it is; choose another with {option}");
    Err(Error::File { path: path.to_owned(), reason })
}

/// Shown on the error output where that is a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let template = "writing {bar:40} {bytes}/{total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("a template");
    ProgressBar::new(bytes).with_style(style)
}

/// Shows how much was written, and ends the writing where a signal came.
fn told(bar: &ProgressBar, written: u64, path: &Path, signals: &Signals) -> Result<()> {
    bar.set_position(written);
    match signals.received() {
        None => Ok(()),
        Some(signal) => Err(Error::File {
            path: path.to_owned(),
            reason: format!("not written: {signal} came"),
        }),
    }
}
