//! The book: the pages that docs/book is the source of.

use anyhow::Result;

use crate::steps::{self, Step};

/// mdBook and what surrounds it, which nothing else needs.
const PACKAGE: &str = "evenkeel-book";

/// Builds the book into target/book. Fails where a link in it leads nowhere.
pub fn build() -> Result<()> {
    Step::cargo("test").args(["--package", PACKAGE]).run()?;
    let folder = steps::target().join("book");
    Step::cargo("run").args(["--package", PACKAGE, "--"]).args([folder]).run()
}
