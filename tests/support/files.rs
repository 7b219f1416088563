//! Files that native tests and those in a page leave for each other, in the folder
//! `EVENKEEL_EXCHANGE`. The program that opens the page brings them there and back.

#[cfg(not(target_arch = "wasm32"))]
mod folder {
    use std::path::PathBuf;

    fn path(name: &str) -> Option<PathBuf> {
        std::env::var_os("EVENKEEL_EXCHANGE").map(|folder| PathBuf::from(folder).join(name))
    }

    /// The contents of a file, where there is one.
    pub fn read(name: &str) -> Option<Vec<u8>> {
        std::fs::read(path(name)?).ok()
    }

    /// Leaves a file, where there is a folder.
    pub fn write(name: &str, bytes: &[u8]) {
        if let Some(path) = path(name) {
            std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use folder::{read, write};

#[cfg(target_arch = "wasm32")]
pub use crate::files::{read, write};
