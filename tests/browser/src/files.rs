//! Files that the program which opened the page keeps for the tests.

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(raw_module = "./files.js")]
unsafe extern "C" {
    /// The contents of a file, where there is one.
    pub fn read(name: &str) -> Option<Vec<u8>>;
    /// Leaves a file.
    pub fn write(name: &str, bytes: &[u8]);
}
