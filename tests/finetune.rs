//! The examples that fine-tune a model and talk with it, and the program with what they write, on a
//! model made here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use evenkeel::gguf;
use evenkeel::hugging_face::Adapter;
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};
use programs::{Place, check_refusal, command, run, succeed};
use safetensors::SafeTensors;
use tiny_model::{QUESTIONS, config, write_gguf, write_lines, write_model};

#[path = "support/programs.rs"]
mod programs;
mod support;
#[path = "support/tiny_model.rs"]
mod tiny_model;

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

/// What a program answers to lines of its standard input.
#[track_caller]
fn talk(program: &str, arguments: &[&str], said: &[&str]) -> Output {
    let mut child = command(program, arguments);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("started");
    let lines: String = said.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("an end");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output
}

#[test]
fn an_adapter_learns_answers_that_the_model_gives() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, lines) = (write_model(&gpu, &place), write_lines(&place, 40));
    let out = place.path("adapter");
    let sizes = ["--steps", "200", "--lr", "0.01"];
    let text = succeed("finetune", &[&[&*model, &lines, "--out", &out], &sizes[..]].concat());
    for part in ["40 samples of ", "parameters learn beside ", "step 200: loss ", &out] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let losses = numbers_behind(&text, ": loss ");
    assert!(losses.len() == 20 && losses[19] < 0.5 * losses[0], "{text}");
    assert_eq!(text.matches(", 0 skipped\n").count(), 20, "{text}");

    let adapter = Adapter::open(&out, &config()).expect("an adapter");
    assert_eq!((adapter.lora().rank, adapter.lora().alpha), (16, 16.0));
    let magnitudes = magnitudes(&Path::new(&out).join("adapter_model.safetensors"));
    // A and B of q, k, v, o, gate, up and down.
    assert_eq!(magnitudes.len(), 14, "{magnitudes:?}");
    assert!(magnitudes.values().all(|&largest| largest > 0.0), "{magnitudes:?}");
    let settings = place.read("adapter/adapter_config.json");
    assert!(settings.contains(&format!("{model:?}")), "{settings}");

    // The example answers, and so does the program.
    let [[first, answer], [second, other]] = QUESTIONS;
    let said = [first, "", second];
    let answers = format!("{answer}\n{other}\n");
    let ask = ["--temperature", "0", &*model, "--adapter", &out];
    assert_eq!(String::from_utf8_lossy(&talk("chat", &ask, &said).stdout), answers);
    // Without the adapter it does not.
    let own = talk("chat", &ask[..3], &[first]);
    assert!(!own.stdout.is_empty() && !own.stdout.starts_with(answer.as_bytes()));
    let ask = ["--model", &model, "--adapter-path", &out, "--temp", "0", "--max-tokens", "20"];
    let output = talk("evenkeel chat", &ask, &said);
    assert_eq!(String::from_utf8_lossy(&output.stdout), answers);
    // Of the second prompt only what the cache does not have is read: not the tokens of the first
    // answer, but for the last of them.
    let tokenizer = Tokenizer::open(&model).expect("a tokenizer");
    let said = Conversation::new().with("user", first).with("assistant", answer);
    let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let all = tokenizer.encode_chat(&said.with("user", second), &asks).expect("ids").len();
    let drawn = tokenizer.encode(&format!("{answer}<|im_end|>"), false).expect("ids").len();
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = format!("prompt: {} tokens", all + 1 - drawn);
    assert!(errors.contains(&expected), "{expected:?} is missing in {errors}");
}

#[test]
fn a_file_of_llama_cpp_is_tuned_and_talked_with() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    write_model(&gpu, &place);
    let (model, lines) = (write_gguf(&place), write_lines(&place, 20));
    let [out, blocks] = ["adapter", "blocks"].map(|name| place.path(name));
    let file = gguf::File::open(&model).expect("a file");
    assert_eq!(file.config().gpt.vocabulary, 520);
    let rank = |folder: &str| Adapter::open(folder, file.config()).expect("an adapter").lora().rank;
    succeed("finetune", &[&model, &lines, "--out", &out, "--steps", "3"]);
    assert_eq!(rank(&out), 16);
    assert!(!talk("chat", &[&model, "--adapter", &out], &["keel"]).stdout.is_empty());

    let own = ["--model", &*model, "--data", &lines, "--train", "--adapter-path", &blocks];
    let more = ["--iters", "3", "--quantize", "q4_1", "--grad-checkpoint", "--val-batches", "1"];
    succeed("evenkeel lora", &[&own[..], &more].concat());
    assert_eq!(rank(&blocks), 8);
    let ask = ["--model", &*model, "--adapter-path", &blocks, "--quantize", "q4_1"];
    let output = talk("evenkeel chat", &[&ask[..], &["--max-tokens", "4"]].concat(), &["keel"]);
    assert!(!output.stdout.is_empty());
}

#[test]
fn what_cannot_be_tuned_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, lines, out) =
        (write_model(&gpu, &place), write_lines(&place, 20), place.path("out"));
    let missing = place.path("missing");
    let broken = place.write("broken.jsonl", b"{\"text\": \"a keel\"}\n{\"txt\": 1}\n");
    let bad = place.write("bad.gguf", b"GGUFxxxx");
    let cases: [(&[&str], &[&str]); 5] = [
        (&[&missing, &lines], &[&missing, "there is no folder", "config.json"]),
        (&[&bad, &lines], &["bad.gguf"]),
        (&[&model, &missing], &[&missing, "cannot be read"]),
        (&[&model, &broken], &["broken.jsonl, line 2", "txt"]),
        (&[&model, &lines, "--lr", "nan"], &["is NaN"]),
    ];
    for (arguments, parts) in cases {
        let arguments = [arguments, &["--out", &out]].concat();
        check_refusal(&run("finetune", &arguments), &arguments, parts);
    }
    let arguments = [&*model, "--adapter", &missing];
    let parts = ["adapter_config.json", "there is none"];
    check_refusal(&run("chat", &arguments), &arguments, &parts);
}
