//! A model as one file of llama.cpp's.

use std::path::{Path, PathBuf};

use evenkeel::gguf::Export;
use evenkeel::nn::Lora;
use evenkeel::run::{Signals, amount, folder, print_aside, say};
use evenkeel::{BlockFormat, Error, Precision, Result};

use super::{Output, bar, check_apart, told};
use crate::loaded::{Loaded, Opened};

/// Whether a name is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A file where a model is to be written.
#[derive(Debug)]
pub struct GgufTarget {
    pub path: PathBuf,
    /// The option that names it.
    pub option: &'static str,
    /// Whether a file of this name may be replaced.
    pub overwrite: bool,
}

impl GgufTarget {
    /// Makes its folder if need be. What is read may not be written over, and what is there only
    /// where that is wanted.
    pub(super) fn prepare(&self, read: &[&Path]) -> Result<()> {
        let (path, option) = (&self.path, self.option);
        check_apart(path, read, option)?;
        let refuse = |reason: String| Err(Error::File { path: path.clone(), reason });
        if path.is_dir() {
            return refuse(format!("this is a folder, and no file; choose another with {option}"));
        }
        if path.exists() && !self.overwrite {
            return refuse(format!(
                "there is such a file; choose another with {option}, or write over it with \
                 --overwrite"
            ));
        }
        folder::prepare(self.folder(), option)
    }

    /// The folder that it lies in.
    pub(super) fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The model in this type or these blocks, or as it came, with an adapter as a part of it.
    pub fn output(
        self,
        opened: &Opened,
        precision: Option<Precision>,
        blocks: Option<BlockFormat>,
        lora: Option<&Lora>,
    ) -> Result<Output<'static>> {
        let export = opened.source.gguf_export()?;
        let export = precision.into_iter().fold(export, Export::precision);
        let export = blocks.into_iter().fold(export, Export::blocks);
        let export = lora.into_iter().fold(export, |export, lora| export.merged(lora));
        Ok(Output::Gguf { target: self, export })
    }

    pub(super) async fn write(
        &self,
        loaded: &Loaded,
        export: &Export,
        signals: &Signals,
    ) -> Result<()> {
        let bytes = export.bytes(&loaded.parameters)?;
        let others = export.not_in_blocks(&loaded.parameters)?;
        if let Some(first) = others.first() {
            let count = others.len();
            print_aside(format_args!(
                "{count} tensors have rows that are no multiple of 32, and are in F16: {first}{}",
                if count > 1 { ", ..." } else { "" }
            ));
        }
        let bar = bar(bytes);
        let tell = |written, _| told(&bar, written, &self.path, signals);
        let saved = export.save_with(&loaded.parameters, &self.path, tell).await;
        bar.finish_and_clear();
        saved?;
        say!("wrote {}, {}", self.path.display(), amount(bytes));
        Ok(())
    }
}
