//! The text to learn: a file, or this repository.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::data::Corpus;
use evenkeel::{Error, Result};

/// Folders of the repository whose files are read.
const FOLDERS: [&str; 3] = ["examples", "shaders", "src"];

/// The file, or this repository's sources and documents.
pub fn load(file: Option<&Path>) -> Result<Corpus> {
    match file {
        Some(file) => Corpus::read(file),
        None => repository(Path::new(env!("CARGO_MANIFEST_DIR"))),
    }
}

/// The tokens of the prompt. Without one: the first line of the text, or what fits of it.
pub fn prompt(prompt: Option<&str>, corpus: &Corpus) -> Result<Vec<u32>> {
    match prompt {
        Some("") => {
            let range = "at least one character";
            Err(Error::Setting { setting: "--prompt", value: "empty".into(), range })
        }
        Some(prompt) => corpus.vocabulary().encode(prompt),
        None => {
            let beginning = &corpus.tokens()[..corpus.tokens().len().min(32)];
            let newline = corpus.vocabulary().encode("\n").ok().map(|tokens| tokens[0]);
            let end = beginning.iter().position(|&token| Some(token) == newline);
            Ok(beginning[..end.map_or(beginning.len(), |end| end + 1)].to_vec())
        }
    }
}

/// Documents first, then every source file, in the order of their paths.
fn repository(root: &Path) -> Result<Corpus> {
    let mut files = Vec::new();
    collect(root, &["md"], false, &mut files);
    for folder in FOLDERS {
        collect(&root.join(folder), &["md", "rs", "wgsl"], true, &mut files);
    }
    let mut text = Vec::new();
    for file in &files {
        text.extend(fs::read(file).map_err(|error| Error::File {
            path: file.clone(),
            reason: format!("the text cannot be read: {error}"),
        })?);
    }
    if text.is_empty() {
        return Err(Error::Data {
            what: root.display().to_string(),
            reason: "this repository's files are no longer there; give a text with --text FILE"
                .into(),
        });
    }
    Corpus::new(format!("this repository ({} files)", files.len()), &text)
}

fn collect(folder: &Path, extensions: &[&str], deep: bool, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if deep && path.is_dir() {
            collect(&path, extensions, deep, files);
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
    }
}
