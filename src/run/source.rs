//! A model out of a folder of Hugging Face's or a GGUF file of llama.cpp's, with its tokenizer.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::gguf;
use crate::hugging_face::{Config, Export, Folder, Progress, Reader};
use crate::kernel::{BlockFormat, Precision};
use crate::text::Tokenizer;

/// What a model is read from.
#[derive(Debug)]
enum Files {
    Folder(Folder),
    Gguf(gguf::File),
}

/// A model that is open, none of whose weights has been read.
#[derive(Debug)]
pub struct Source {
    files: Files,
    path: PathBuf,
    /// The folder of the tokenizer, where it comes from one.
    tokenizer_folder: Option<PathBuf>,
    /// Its own, or the one of another folder.
    pub tokenizer: Tokenizer,
}

impl Source {
    /// Opens a folder, or a file whose name ends with .gguf, and checks that the tokenizer fits:
    /// the model's own, or that of the folder `tokenizer`.
    ///
    /// # Errors
    /// [`Error::File`] and what the readers of folders, GGUF files and tokenizers refuse.
    pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        if !is_gguf && !path.is_dir() {
            let reason = "there is no folder with this name; a model is a folder with a \
                          config.json, or a file with a name that ends with .gguf";
            return Err(Error::File { path: path.to_owned(), reason: reason.to_owned() });
        }
        let files = if is_gguf {
            Files::Gguf(gguf::File::open(path)?)
        } else {
            Files::Folder(Folder::open(path)?)
        };
        let given = tokenizer;
        let tokenizer = match (given, &files) {
            (Some(folder), _) => Tokenizer::open(folder)?,
            (None, Files::Folder(_)) => Tokenizer::open(path)?,
            (None, Files::Gguf(file)) => match file.tokenizer()? {
                Some(described) => Tokenizer::from_gguf(&described)?,
                None => {
                    return Err(Error::Unsupported {
                        what: "a GGUF file without a tokenizer".to_owned(),
                        instead: "give a folder that has its tokenizer.json with --tokenizer"
                            .to_owned(),
                    });
                }
            },
        };
        let own_folder = (!is_gguf).then_some(path);
        let tokenizer_folder = given.or(own_folder).map(Path::to_owned);
        let source = Self { files, path: path.to_owned(), tokenizer_folder, tokenizer };
        source.tokenizer.check(&source.config().gpt)?;
        Ok(source)
    }

    /// The folder or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of the tokenizer by their names in a folder, to write them beside a model: those of
    /// the folder as they are, and those that a GGUF file describes.
    ///
    /// # Errors
    /// [`Error::File`] for files that cannot be read, and those of [`Tokenizer::files_of_gguf`].
    pub fn tokenizer_files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        match (&self.tokenizer_folder, &self.files) {
            (Some(folder), _) => Tokenizer::files_in(folder),
            (None, Files::Gguf(file)) => match file.tokenizer()? {
                Some(described) => Tokenizer::files_of_gguf(&described),
                None => Ok(BTreeMap::new()),
            },
            (None, Files::Folder(_)) => Ok(BTreeMap::new()),
        }
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        match &self.files {
            Files::Folder(folder) => folder.config(),
            Files::Gguf(file) => file.config(),
        }
    }

    /// Its weights, a few rows at a time; how far they are shows where somebody looks.
    pub fn reader(&self) -> Reader<'_, impl FnMut(&Progress<'_>)> {
        let progress = progress();
        match &self.files {
            Files::Folder(folder) => folder.reader(progress),
            Files::Gguf(file) => file.reader(progress),
        }
    }

    /// How a changed model is written: in the types that it came in, or in f32.
    pub fn export(&self) -> Export {
        match &self.files {
            Files::Folder(folder) => folder.export(),
            Files::Gguf(file) => Export::new(file.config().clone(), Precision::F32),
        }
    }

    /// How a changed model is written as a GGUF file, with its tokenizer: in the type that all of its
    /// tensors came in, or in f32.
    ///
    /// # Errors
    /// Those of [`Tokenizer::to_gguf`].
    pub fn gguf_export(&self) -> Result<gguf::Export> {
        let own = match (&self.tokenizer_folder, &self.files) {
            (None, Files::Gguf(file)) => file.tokenizer()?,
            _ => None,
        };
        let tokenizer = own.map_or_else(|| self.tokenizer.to_gguf(), Ok)?;
        let precision = match &self.files {
            Files::Folder(folder) => folder.export().common_precision().unwrap_or_default(),
            Files::Gguf(_) => Precision::F32,
        };
        let export = gguf::Export::new(self.config().clone());
        Ok(export.precision(precision).tokenizer(tokenizer))
    }
}

/// Shows a line on the error output where that is a terminal.
fn progress() -> impl FnMut(&Progress<'_>) {
    let (is_shown, mut last) = (stderr().is_terminal(), None);
    move |at| {
        let percent = 100 * at.bytes / at.total.max(1);
        if is_shown && last.replace(percent) != Some(percent) {
            let end = if percent == 100 { '\n' } else { '\r' };
            eprint!("loading the weights: {percent:3} %{end}");
        }
    }
}

/// A format of blocks by its name, whatever its case.
///
/// # Errors
/// The names that there are.
pub fn block_format(name: &str) -> std::result::Result<BlockFormat, String> {
    let named = |format: &BlockFormat| format.name().eq_ignore_ascii_case(name);
    let found = BlockFormat::ALL.into_iter().find(named);
    found.ok_or_else(|| "there are q8_0, q4_0 and q4_1".to_owned())
}
