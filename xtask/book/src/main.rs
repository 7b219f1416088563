//! Builds the book of docs/book into a folder, and fails where a link leads nowhere.
//!
//! mdBook does nearly all of it. [`outside`] makes chapters of files that lie outside the book,
//! [`links`] follows every link of the pages.

mod links;
mod outside;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use mdbook_driver::MDBook;

use outside::Outside;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("give the folder for the pages")?;
    let folder = std::path::absolute(folder).context("the folder for the pages is no path")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().context("the repository is not where it was built")?;
    let pages = build(root, folder.clone())?;
    let first = folder.join("index.html");
    println!("{pages} pages, whose links all lead somewhere: {}", first.display());
    Ok(())
}

/// Returns how many pages there are.
fn build(root: PathBuf, folder: PathBuf) -> Result<usize> {
    let mut book = MDBook::load(root.join("docs/book"))?;
    book.config.build.build_dir.clone_from(&folder);
    book.with_preprocessor(Outside { root });
    book.build()?;
    links::check(&folder)
}
