//! Files of the repository that are chapters as well, by `{{#include}}`.
//!
//! They are written for rustdoc or for readers of the repository: their links to items of the crate
//! and to files of the repository lead nowhere in a book, and are words here. Code without a
//! language is Rust, as for rustdoc.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Error, Result, bail};
use mdbook_preprocessor::book::Book;
use mdbook_preprocessor::{Preprocessor, PreprocessorContext};
use regex::{Captures, Regex};

/// A link, or an image, in one piece: its words and its target.
static LINK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[([^\[\]]+)\]\(([^()\s]+)\)").expect("an expression"));

pub struct Outside {
    /// The repository.
    pub root: PathBuf,
}

impl Preprocessor for Outside {
    fn name(&self) -> &str {
        "outside"
    }

    fn run(&self, context: &PreprocessorContext, mut book: Book) -> Result<Book> {
        let source = context.root.join(&context.config.book.src);
        let mut missing = Vec::new();
        book.for_each_chapter_mut(|chapter| {
            let folder = chapter.source_path.as_deref().and_then(Path::parent);
            let folder = source.join(folder.unwrap_or(Path::new("")));
            if chapter.content.contains("{{#") {
                missing.push(chapter.name.clone());
            }
            chapter.content = self.adapt(&chapter.content, &folder);
        });
        match missing.is_empty() {
            true => Ok(book),
            false => bail!("chapters include files that are not there: {}", missing.join(", ")),
        }
    }

    fn supports_renderer(&self, _renderer: &str) -> Result<bool, Error> {
        Ok(true)
    }
}

impl Outside {
    /// A chapter of the book, where code stays as it is but for its language.
    fn adapt(&self, text: &str, folder: &Path) -> String {
        let (mut adapted, mut prose) = (String::new(), String::new());
        let mut in_code = false;
        for line in text.split_inclusive('\n') {
            let fence = line.trim_start().strip_prefix("```");
            match fence {
                None if in_code => adapted.push_str(line),
                None => prose.push_str(line),
                Some(_) if in_code => {
                    in_code = false;
                    adapted.push_str(line);
                }
                Some(language) => {
                    in_code = true;
                    adapted.push_str(&self.without_links(&prose, folder));
                    prose.clear();
                    match language.trim() {
                        "" => adapted.push_str("```rust\n"),
                        "no_run" => adapted.push_str("```rust,no_run\n"),
                        _ => adapted.push_str(line),
                    }
                }
            }
        }
        adapted + &self.without_links(&prose, folder)
    }

    fn without_links(&self, text: &str, folder: &Path) -> String {
        let words = |link: &Captures<'_>| {
            let target = link[2].split('#').next().unwrap_or_default();
            let is_file = !target.is_empty() && self.root.join(target).exists();
            let is_outside = is_file && !folder.join(target).exists();
            let stays = !is_outside && !target.starts_with("crate::");
            link[if stays { 0 } else { 1 }].to_owned()
        };
        LINK.replace_all(text, words).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_the_book_are_words() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::write(root.path().join("README.md"), "").expect("written");
        let outside = Outside { root: root.path().to_owned() };
        let folder = root.path().join("docs");
        let adapt = |text: &str| outside.adapt(text, &folder);
        assert_eq!(adapt("a [`Gpu`](crate::Gpu), [b\nc](README.md#d)"), "a `Gpu`, b\nc");
        // Links that lead nowhere stay, to be found.
        for stays in ["[a](b.md)", "[a](#b)", "[a](https://b)", "`[a](crate:b)`"] {
            assert_eq!(adapt(stays), stays);
        }
    }

    #[test]
    fn code_is_rust_where_nothing_else_is_said() {
        let outside = Outside { root: PathBuf::new() };
        let text = "```\na[0](crate::b)\n```\n```no_run\n```\n```text\n```\n";
        let adapted = "```rust\na[0](crate::b)\n```\n```rust,no_run\n```\n```text\n```\n";
        assert_eq!(outside.adapt(text, Path::new("")), adapted);
    }
}
