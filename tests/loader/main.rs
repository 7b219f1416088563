//! The data loader: records out of damaged files, tokens in a file, batches ahead of the device.

mod cache;
mod masks;
mod prefetch;
mod records;
mod windows;

use std::path::PathBuf;

use tempfile::TempDir;

/// A folder with a file in it.
fn file(name: &str, contents: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, contents).expect("written");
    (folder, path)
}

#[track_caller]
fn assert_says(error: &evenkeel::Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}
