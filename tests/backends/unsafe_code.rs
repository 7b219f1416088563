//! Rust that the compiler does not check: one line, where wgpu wants its experimental features to be
//! acknowledged.

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

#[test]
fn one_place_allows_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // In two pieces, so that this file does not have it.
    let (allows, word) = (concat!("allow(", "unsafe_code"), concat!("unsafe", " {"));
    let mut found = Vec::new();
    for room in ["src", "tests", "benches", "examples"] {
        for file in rust_files(&root.join(room)) {
            let text = fs::read_to_string(&file).expect("readable");
            let uses = [allows, word].map(|what| text.matches(what).count());
            if uses != [0, 0] {
                found.push((file.strip_prefix(root).expect("below it").to_owned(), uses));
            }
        }
    }
    assert_eq!(found, [(PathBuf::from("src/gpu/requirements.rs"), [1, 1])]);
    let settings = fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    assert!(settings.contains("unsafe_code = \"deny\""), "everywhere else it is an error");
}
