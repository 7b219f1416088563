//! What tokenizers and transformers make of the same: `tests/fixtures/make_text_fixtures.py`.

use std::collections::BTreeMap;

use evenkeel::text::Tokenizer;
use serde_json::Value;

pub type Files = BTreeMap<String, Vec<u8>>;

macro_rules! folders {
    ($($name:literal: [$($file:literal),*]),* $(,)?) => {
        /// Tokenizers by their names, and the files of each.
        pub const FOLDERS: &[(&str, &[(&str, &[u8])])] = &[$(($name, &[$(
            ($file, include_bytes!(concat!("../fixtures/text/", $name, "/", $file)))
        ),*])),*];
    };
}

folders! {
    "llama3": ["tokenizer.json", "tokenizer_config.json", "generation_config.json"],
    "qwen2": ["tokenizer.json", "tokenizer_config.json", "generation_config.json"],
    "gpt2": ["tokenizer.json", "tokenizer_config.json"],
    "llama2": ["tokenizer.json", "tokenizer_config.json"],
    "gemma": ["tokenizer.json", "tokenizer_config.json", "generation_config.json"],
}

/// The files of a tokenizer.
pub fn files(name: &str) -> Files {
    let (_, files) = FOLDERS.iter().find(|(folder, _)| *folder == name).expect("a folder");
    files.iter().map(|(file, contents)| ((*file).to_owned(), contents.to_vec())).collect()
}

pub fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_files(&files(name)).expect("a tokenizer")
}

/// One that makes conversations of this form.
pub fn with_template(name: &str, template: &str) -> Tokenizer {
    let mut tokenizer = tokenizer(name);
    tokenizer.set_chat_template(template).expect("a template");
    tokenizer
}

pub fn expected() -> Value {
    serde_json::from_str(include_str!("../fixtures/text/expected.json")).expect("JSON")
}

pub fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list");
    list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

pub fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// The first differing place of two texts, for people.
#[track_caller]
pub fn assert_same(what: &str, found: &str, expected: &str) {
    if found != expected {
        let at = found.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
        let near =
            |text: &str| text.chars().skip(at.saturating_sub(40)).take(100).collect::<String>();
        panic!("{what}: {:?} instead of {:?}, character {at}", near(found), near(expected));
    }
}
