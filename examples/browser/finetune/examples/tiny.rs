//! Writes the model and the lines that the tests in `tests/tiny` use.
//!
//! ```text
//! cargo run --package evenkeel-browser-finetune --example tiny -- examples/browser/finetune/tests/tiny
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use evenkeel::{Gpu, block_on};
use serde_json::json;

#[path = "../tests/place/mod.rs"]
mod programs;
#[path = "../../../../tests/support/tiny_model.rs"]
mod tiny_model;

const MODEL: [&str; 4] =
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Questions and answers to learn from, in turn.
const TRAINING: [[&str; 2]; 8] = [
    ["What keeps the boat even?", "The keel."],
    ["Who clips the gradients?", "A trainer."],
    ["What does a sail catch?", "The wind."],
    ["Where does the wind blow?", "Überall, auch am Äquator ⛵."],
    ["What is below the boat?", "The keel."],
    ["What does a trainer clip?", "The gradients."],
    ["What catches the wind?", "A sail."],
    ["What is a keel for?", "It keeps the boat even."],
];
/// And to validate on.
const VALIDATION: [[&str; 2]; 3] = [
    ["What keeps a boat even?", "The keel."],
    ["Who clips gradients?", "A trainer."],
    ["What do sails catch?", "The wind."],
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder to write into")?;
    let folder = Path::new(&folder);
    let gpu = block_on(Gpu::new())?;
    let place = programs::Place::new();
    let model = tiny_model::write_model(&gpu, &place);
    fs::create_dir_all(folder)?;
    for name in MODEL {
        fs::copy(Path::new(&model).join(name), folder.join(name))?;
    }
    fs::write(folder.join("train.jsonl"), lines(&TRAINING))?;
    fs::write(folder.join("valid.jsonl"), lines(&VALIDATION))?;
    Ok(())
}

fn lines(pairs: &[[&str; 2]]) -> String {
    let line = |[question, answer]: &[&str; 2]| {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let messages = [message("user", question), message("assistant", answer)];
        format!("{}\n", json!({ "messages": messages }))
    };
    pairs.iter().map(line).collect()
}
