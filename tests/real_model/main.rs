//! SmolLM2-135M-Instruct, from a GGUF file with 4 bits a weight, against what tokenizers,
//! transformers and PEFT compute with it: `tests/fixtures/make_real_model.py`. The program tunes it
//! as well.
//!
//! `cargo xtask test --real-model` downloads the file and names it in `EVENKEEL_REAL_MODEL`.
//! Without that these tests are skipped.

#[path = "../support/mod.rs"]
mod support;

mod folder;
mod predictions;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
#[path = "../support/programs.rs"]
mod programs;
mod texts;
mod tuning;

use std::path::{Path, PathBuf};
use std::{env, fs};

use evenkeel::BlockFormat;
use evenkeel::gguf::File;
use evenkeel::nn::GptConfig;
use evenkeel::text::Tokenizer;
use serde_json::Value;
use support::Tolerance;

/// How the base lies on the device: its figures' name, and its blocks.
const BASES: [(&str, Option<BlockFormat>); 2] =
    [("dequantized", None), ("kept", Some(BlockFormat::Q4_1))];

/// The most positions that a test asks for.
const CONTEXT: usize = 256;

/// The file, and what is known of it.
struct Real {
    file: File,
    expected: Value,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/real_model").join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = fixture(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; tests/fixtures/make_real_model.py makes it", path.display())
    })
}

impl Real {
    /// `None` where there is no file.
    fn open() -> Option<Self> {
        let Some(path) = env::var_os("EVENKEEL_REAL_MODEL") else {
            eprintln!("skipped: EVENKEEL_REAL_MODEL is not set; cargo xtask test --real-model");
            return None;
        };
        let file = File::open(path).unwrap_or_else(|error| panic!("{error}"));
        let expected = serde_json::from_slice(&read("expected.json")).expect("JSON");
        Some(Self { file, expected })
    }

    fn tokenizer(&self) -> Tokenizer {
        let described = self.file.tokenizer().expect("it fits").expect("there is one");
        Tokenizer::from_gguf(&described).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The model, with its weights in these blocks.
    fn gpt(&self, base_format: Option<BlockFormat>) -> GptConfig {
        GptConfig { base_format, context: CONTEXT, ..self.file.config().gpt.clone() }
    }

    /// What is known of a base.
    fn of(&self, base: &str) -> &Value {
        &self.expected["bases"][base]
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Eight times what PyTorch in f32 strays from f64, which the script measured.
fn straying(by: &Value) -> Tolerance {
    let because = "f32 against f64, whose sums are added up in another order than PyTorch's";
    Tolerance { absolute: 8.0 * by.as_f64().expect("a number"), relative: 0.0, because }
}

/// All that is in the file is compared with something, in one of the tests.
#[test]
fn nothing_that_is_known_is_left_out() {
    let Some(real) = Real::open() else { return };
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let mut all = keys(&real.expected);
    all.sort();
    assert_eq!(all, ["bases", "columns", "lines", "lora", "samples", "special", "texts"]);
    assert_eq!(keys(&real.expected["bases"]).len(), BASES.len());
    for (base, _) in BASES {
        let mut all = keys(real.of(base));
        all.sort();
        assert_eq!(all, ["gradient_norms", "greedy", "logits", "losses", "strays"], "{base}");
        for key in ["greedy", "logits", "losses", "gradient_norms"] {
            assert!(list(&real.of(base)[key]).len() >= 3, "{base} has few {key}");
        }
    }
    assert!(list(&real.expected["texts"]).len() > 20);
}
