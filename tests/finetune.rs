//! The examples that fine-tune a model and talk with it, as a user runs them, on a model made here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use evenkeel::gguf;
use evenkeel::hugging_face::{Adapter, Folder};
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};
use programs::{Place, check_refusal, command, run, succeed};
use safetensors::SafeTensors;
use tiny_model::{QUESTIONS, config, write_gguf, write_lines, write_model};

#[path = "support/programs.rs"]
mod programs;
mod support;
#[path = "support/tiny_model.rs"]
mod tiny_model;

const FILE: &str = "model.safetensors";
/// The numbers that stand behind some words.
fn numbers_behind(text: &str, words: &str) -> Vec<f64> {
    let number = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse().expect("a number")
    };
    text.split(words).skip(1).map(number).collect()
}

/// The largest magnitude in each tensor of a file.
fn magnitudes(file: &Path) -> BTreeMap<String, f32> {
    let file = fs::read(file).expect("read");
    let tensors = SafeTensors::deserialize(&file).expect("tensors").tensors();
    let magnitude = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        (name, numbers.iter().fold(0.0f32, |largest, x| largest.max(x.abs())))
    };
    tensors.into_iter().map(magnitude).collect()
}

#[test]
fn an_adapter_learns_answers_that_the_model_gives() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, lines) = (write_model(&gpu, &place), write_lines(&place, 40));
    let out = place.path("adapter");
    let sizes = ["--steps", "200", "--lr", "0.01", "--rank", "16", "--evaluate-every", "100"];
    let sizes = [&sizes[..], &["--mask-prompt"]].concat();
    let text = succeed("finetune", &[&[&*model, &lines, "--out", &out], &sizes[..]].concat());
    let counted = "40 samples of ";
    for part in ["adapter ", counted, "parameters are trained", "step 200: loss", "norm ", &out] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let held_out = numbers_behind(&text, "held out ");
    assert!(held_out.len() == 3 && held_out[2] < 0.5 * held_out[0], "{text}");
    assert!(!text.contains("SKIPPED"), "{text}");

    let adapter = Adapter::open(&out, &config()).expect("an adapter");
    assert_eq!((adapter.lora().rank, adapter.lora().alpha), (16, 16.0));
    let magnitudes = magnitudes(&Path::new(&out).join("adapter_model.safetensors"));
    // A and B of q, k, v, o, gate, up and down.
    assert_eq!(magnitudes.len(), 14, "{magnitudes:?}");
    assert!(magnitudes.values().all(|&largest| largest > 0.0), "{magnitudes:?}");
    let settings = place.read("adapter/adapter_config.json");
    assert!(settings.contains(&format!("{model:?}")), "{settings}");

    let greedy = ["--temperature", "0", "--tokens", "20"];
    for [question, answer] in QUESTIONS {
        let ask = [&[&*model, "--prompt", question], &greedy[..]].concat();
        let text = succeed("chat", &[&ask[..], &["--adapter", &out]].concat());
        assert_eq!(text.lines().next(), Some(answer), "{text}");
        assert!(text.contains("tokens/s"), "{text}");
        assert_ne!(succeed("chat", &ask).lines().next(), Some(answer));
    }

    let arguments = [&[&*model, "--adapter", &out], &greedy[..]].concat();
    let mut chat = command("chat", &arguments);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let said = format!("{}\n\n{}\n", QUESTIONS[0][0], QUESTIONS[1][0]);
    chat.stdin.take().expect("piped").write_all(said.as_bytes()).expect("written");
    let output = chat.wait_with_output().expect("an end");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with(QUESTIONS[0][1]), "{text}");
    // Of the second prompt only what the cache does not have is read: not the tokens of the first
    // answer, but for the last of them.
    let tokenizer = Tokenizer::open(&model).expect("a tokenizer");
    let [[first, answer], [second, _]] = QUESTIONS;
    let said = Conversation::new().with("user", first).with("assistant", answer);
    let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let all = tokenizer.encode_chat(&said.with("user", second), &asks).expect("ids").len();
    let drawn = tokenizer.encode(&format!("{answer}<|im_end|>"), false).expect("ids").len();
    let expected = format!("read {} tokens", all + 1 - drawn);
    assert!(text.contains(&expected), "{expected:?} is missing in {text}");
}

#[test]
fn a_file_of_blocks_is_tuned_and_talked_with() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    write_model(&gpu, &place);
    let (model, lines, out) = (write_gguf(&place), write_lines(&place, 20), place.path("adapter"));
    let file = gguf::File::open(&model).expect("a file");
    assert_eq!(file.config().gpt.vocabulary, 520);
    for format in ["q8_0", "Q4_1"] {
        let blocks = ["--base-format", format];
        let sizes = ["--steps", "3", "--rank", "4", "--alpha", "4", "--batch", "2", "--recompute"];
        let tune = [&[&*model, &lines, "--out", &out], &sizes[..], &blocks].concat();
        let text = succeed("finetune", &tune);
        assert_eq!(numbers_behind(&text, "held out ").len(), 2, "{text}");
        let adapter = Adapter::open(&out, file.config()).expect("an adapter");
        assert_eq!((adapter.lora().rank, adapter.lora().alpha), (4, 4.0));
        let ask = [&*model, "--adapter", &out, "--prompt", "keel", "--tokens", "4"];
        let text = succeed("chat", &[&ask[..], &blocks].concat());
        assert!(text.contains("wrote "), "{text}");
    }
}

#[test]
fn all_weights_are_tuned_into_a_folder() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, lines) = (write_model(&gpu, &place), write_lines(&place, 2));
    let out = place.path("tuned");
    let sizes = ["--full", "--steps", "3", "--lr", "0.01", "--batch", "1"];
    succeed("finetune", &[&[&*model, &lines, "--out", &out], &sizes[..]].concat());
    let [was, is] = [&model, &out].map(|path| Folder::open(path).expect("a folder"));
    assert_eq!(is.config(), was.config());
    let [before, after] = [&model, &out].map(|path| magnitudes(&Path::new(path).join(FILE)));
    assert!(before.keys().eq(after.keys()));
    assert!(before.iter().all(|(name, largest)| after[name] != *largest), "{before:?} {after:?}");
    let ask = [&*out, "--tokenizer", &model, "--prompt", "keel", "--tokens", "3"];
    assert!(succeed("chat", &ask).contains("wrote "));
}

#[test]
fn what_cannot_be_tuned_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, lines, out) =
        (write_model(&gpu, &place), write_lines(&place, 20), place.path("out"));
    let missing = place.path("missing");
    let one = place.write("one.jsonl", b"{\"text\": \"a keel\"}\n");
    let broken = place.write("broken.jsonl", b"{\"text\": \"a keel\"}\n{\"txt\": 1}\n");
    let bad = place.write("bad.gguf", b"GGUFxxxx");
    let cases: [(&[&str], &[&str]); 8] = [
        (&[&missing, &lines], &[&missing, "there is no folder", "config.json"]),
        (&[&bad, &lines], &["bad.gguf"]),
        (&[&model, &missing], &[&missing, "cannot be read"]),
        (&[&model, &one], &["one.jsonl", "at least two"]),
        (&[&model, &broken], &["broken.jsonl, line 2", "txt"]),
        (&[&model, &lines, "--context", "0"], &["context", "is 0"]),
        (&[&model, &lines, "--rank", "0"], &["lora rank is 0", "at least 1"]),
        (&[&model, &lines, "--lr", "nan"], &["is NaN"]),
    ];
    for (arguments, parts) in cases {
        let arguments = [arguments, &["--out", &out]].concat();
        check_refusal(&run("finetune", &arguments), &arguments, parts);
    }
    let refused: [&[&str]; 3] =
        [&["--steps", "0"], &["--base-format", "q5_0"], &["--full", "--base-format", "q4_0"]];
    for more in refused {
        let arguments = [&[&*model, &lines, "--out", &out], more].concat();
        assert_eq!(run("finetune", &arguments).status.code(), Some(2), "{more:?}");
    }
    for (arguments, parts) in [
        ([&*model, "--adapter", &missing], ["adapter_config.json", "there is none"]),
        ([&*model, "--context", "1000"], ["context is 1000", "that of the model"]),
    ] {
        let arguments = [&arguments[..], &["--prompt", "x"]].concat();
        check_refusal(&run("chat", &arguments), &arguments, &parts);
    }
}
