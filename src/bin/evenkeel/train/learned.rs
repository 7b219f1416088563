//! Vocabularies that are learned from the data, and kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use evenkeel::data::Document;
use evenkeel::file;
use evenkeel::text::vocabulary;
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::lexicon::{self, FILES, Files, text_to_learn};

/// A vocabulary in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// What it was learned of, and how.
    of: String,
    files: BTreeMap<String, String>,
}

/// The files of a vocabulary that the data make.
///
/// # Errors
/// What is wrong with the data.
pub fn learn(
    kind: &Kind,
    mut documents: impl Iterator<Item = Result<Document>> + Send,
) -> Result<Files> {
    let Kind::Bpe(size) = kind else {
        return Ok(alone(vocabulary::of_characters(&characters(documents)?)));
    };
    let mut failed = None;
    let texts = std::iter::from_fn(|| match documents.next()? {
        Ok(document) => Some(text_to_learn(&document)),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let files = vocabulary::byte_level_bpe(texts, *size)?;
    failed.map_or(Ok(files), Err)
}

/// All that occur, in ascending order.
fn characters(documents: impl Iterator<Item = Result<Document>>) -> Result<Vec<char>> {
    let mut occurs = vec![false; char::MAX as usize + 1];
    for document in documents {
        let document = document?;
        // Records end their lines.
        occurs['\n' as usize] |= document.is_record();
        text_to_learn(&document).chars().for_each(|character| occurs[character as usize] = true);
    }
    Ok(('\0'..=char::MAX).filter(|&character| occurs[character as usize]).collect())
}

/// The files of a vocabulary that the data do not change.
///
/// # Errors
/// [`Error::File`].
pub fn given(kind: &Kind) -> Result<Files> {
    match kind {
        Kind::Bytes => Ok(alone(vocabulary::of_bytes())),
        Kind::Path(path) if path.is_dir() => lexicon::files_in(path),
        Kind::Path(path) => Ok(alone(lexicon::read(path)?)),
        Kind::Model => unreachable!("the model gives its own"),
        Kind::Characters | Kind::Bpe(_) => unreachable!("they are learned"),
    }
}

fn alone(json: Vec<u8>) -> Files {
    Files::from([(FILES[0].to_owned(), json)])
}

/// A vocabulary that was kept, if it is this one.
pub fn read(path: &Path, of: &str) -> Option<Files> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let files = kept.files.into_iter().map(|(name, contents)| (name, contents.into_bytes()));
    (kept.of == of).then(|| files.collect())
}

/// Keeps a vocabulary.
///
/// # Errors
/// [`Error::File`].
pub fn write(path: &Path, of: &str, files: &Files) -> Result<()> {
    let text = |(name, contents): (&String, &Vec<u8>)| {
        let text = String::from_utf8(contents.clone()).map_err(|error| Error::Data {
            what: name.clone(),
            reason: format!("the tokenizer is no UTF-8: {error}"),
        });
        Ok((name.clone(), text?))
    };
    let kept = Kept { of: of.to_owned(), files: files.iter().map(text).collect::<Result<_>>()? };
    let json = serde_json::to_vec(&kept).expect("texts are JSON");
    file::replace(path, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_by_what_it_is_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data.vocabulary");
        assert!(read(&path, "a").is_none());
        let files = alone(b"{\"text\": \"\xc3\xb6\"}".to_vec());
        write(&path, "a", &files).expect("written");
        assert_eq!(read(&path, "a"), Some(files));
        assert!(read(&path, "b").is_none());
        fs::write(&path, b"{\"of\": \"a\"").expect("written");
        assert!(read(&path, "a").is_none());
    }
}
