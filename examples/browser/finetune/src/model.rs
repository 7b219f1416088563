//! A model out of the files that a visitor chose, with its tokenizer.

use std::collections::BTreeMap;

use evenkeel::gguf;
use evenkeel::hugging_face::{Config, Folder, Progress, ReadAt, Reader};
use evenkeel::text::Tokenizer;
use evenkeel::{Error, Result};

use crate::Base;

/// Files by their names, of which no more is read than is needed.
pub type ModelFiles = BTreeMap<String, Box<dyn ReadAt>>;

const TEMPLATES: &str = "additional_chat_templates/";

#[derive(Debug)]
enum Files {
    Folder(Folder),
    Gguf(gguf::File),
}

/// A model that is open, none of whose weights has been read.
#[derive(Debug)]
pub struct Model {
    files: Files,
    pub tokenizer: Tokenizer,
}

impl Model {
    /// Opens the files of a folder of Hugging Face's, or one of llama.cpp's.
    ///
    /// # Errors
    /// What the readers of folders, GGUF files and tokenizers refuse.
    pub fn open(mut files: ModelFiles) -> Result<Self> {
        let described = tokenizer_files(&files)?;
        let is_gguf = |name: &&String| name.to_lowercase().ends_with(".gguf");
        let ggufs: Vec<_> = files.keys().filter(is_gguf).cloned().collect();
        let (files, tokenizer) = match &*ggufs {
            [] => {
                let folder = Folder::from_sources(files)?;
                (Files::Folder(folder), Tokenizer::from_files(&described)?)
            }
            [name] => {
                let source = files.remove(name).expect("one of its own names");
                let file = gguf::File::from_source(name, source)?;
                let tokenizer = gguf_tokenizer(&file, &described)?;
                (Files::Gguf(file), tokenizer)
            }
            several => {
                return Err(Error::Unsupported {
                    what: format!("several GGUF files ({})", several.join(", ")),
                    instead: "choose one".to_owned(),
                });
            }
        };
        let model = Self { files, tokenizer };
        model.tokenizer.check(&model.config().gpt)?;
        Ok(model)
    }

    pub fn config(&self) -> &Config {
        match &self.files {
            Files::Folder(folder) => folder.config(),
            Files::Gguf(file) => file.config(),
        }
    }

    /// Its weights, a few rows at a time.
    pub fn reader(&self) -> Reader<'_, impl FnMut(&Progress<'_>)> {
        match &self.files {
            Files::Folder(folder) => folder.reader(nobody_looks),
            Files::Gguf(file) => file.reader(nobody_looks),
        }
    }

    /// How its weights lie on the device without being changed: in the blocks that most of them
    /// come in, if they do.
    pub fn stored(&self) -> Base {
        let Files::Gguf(file) = &self.files else { return Base::F32 };
        let mut counts = BTreeMap::<_, usize>::new();
        for tensor in file.tensors().values() {
            *counts.entry(tensor.format().of_weights()).or_default() += tensor.count();
        }
        let most = counts.into_iter().max_by_key(|&(_, count)| count);
        most.and_then(|(format, _)| format).map_or(Base::F32, Base::Blocks)
    }

    pub fn has_template(&self) -> bool {
        self.tokenizer.chat_template("default").is_some()
    }
}

fn nobody_looks(_: &Progress<'_>) {}

/// Its own, unless there is a `tokenizer.json` beside it.
fn gguf_tokenizer(file: &gguf::File, files: &BTreeMap<String, Vec<u8>>) -> Result<Tokenizer> {
    if files.contains_key("tokenizer.json") {
        return Tokenizer::from_files(files);
    }
    match file.tokenizer()? {
        Some(described) => Tokenizer::from_gguf(&described),
        None => Err(Error::Unsupported {
            what: "a GGUF file without a tokenizer".to_owned(),
            instead: "choose the tokenizer.json of the model that it was made of too".to_owned(),
        }),
    }
}

/// The files of a tokenizer, whole.
fn tokenizer_files(files: &ModelFiles) -> Result<BTreeMap<String, Vec<u8>>> {
    let is_wanted = |name: &str| Tokenizer::FILES.contains(&name) || name.starts_with(TEMPLATES);
    let wanted = files.iter().filter(|(name, _)| is_wanted(name));
    let read = wanted.map(|(name, source)| {
        let contents = source.size().and_then(|size| source.read_at(0..size));
        let contents = contents.map_err(|error| Error::ModelFile {
            file: name.clone(),
            reason: format!("cannot be read: {error}"),
        })?;
        Ok((name.clone(), contents))
    });
    read.collect()
}
