//! `evenkeel generate`

use std::io::{Read, Write};
use std::process::Stdio;

use evenkeel::text::{ChatOptions, Conversation};
use serde_json::Value;

use crate::models::{Reference, write_adapter};
use crate::programs::{Place, command, lines, run, succeed};
use crate::tiny_model::{write_gguf, write_model};
use crate::{refuse, refuse_usage, send, support, wait_until_it_listens};

const NAME: &str = "evenkeel generate";

#[test]
fn the_likeliest_text_is_that_of_whole_contexts() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let own = ["--model", &model, "--prompt", "the keel", "--max-tokens", "8"];
    // Without a penalty a model that knows nothing says its last token again.
    let more = ["--ignore-chat-template", "--repetition-penalty", "64"];
    let plain = [&own[..], &more].concat();
    let with = [&plain[..], &["--adapter-path", &adapter]].concat();
    let mut texts = Vec::new();
    for (arguments, adapter) in [(&plain, None), (&with, Some(&*adapter))] {
        let reference = Reference::open(&gpu, &model, adapter);
        let prompt = reference.tokenizer.encode("the keel", true).expect("ids");
        let tokens = reference.greedy(&prompt, 8, 64.0);
        let is_stop = |token: &u32| reference.tokenizer.special().is_stop(*token);
        let end = tokens.iter().position(is_stop).unwrap_or(tokens.len());
        let whole = [&prompt[..], &tokens[..end]].concat();
        let decode = |ids: &[u32]| reference.tokenizer.decode(ids, true).expect("a text");
        let expected = decode(&whole)[decode(&prompt).len()..].to_owned();
        let output = run(NAME, arguments);
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{expected}\n"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("prompt: {} tokens, ", prompt.len())), "{said}");
        assert!(said.contains("generation: ") && said.contains("tokens/s"), "{said}");
        texts.push(expected);
    }
    assert_ne!(texts[0], texts[1]);

    // A text ends in front of the first stop, which is not shown.
    let stop: String = texts[0].chars().skip(2).take(2).collect();
    let stopped = [&plain[..], &["--stop", "never", "--stop", &stop, "--json", "--quiet"]].concat();
    let output = run(NAME, &stopped);
    assert!(output.status.success() && output.stderr.is_empty());
    let line: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(line["text"], texts[0][..texts[0].find(&stop).expect("there")]);
    assert_eq!(line["finish_reason"], "stop");
}

#[test]
fn a_prompt_is_put_into_the_chat_template() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let reference = Reference::open(&gpu, &model, None);
    let asks = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let chat = Conversation::new().with("system", "Be short.").with("user", "What keels?");
    let prompt = reference.tokenizer.encode_chat(&chat, &asks).expect("ids");
    let mut expected = reference.greedy(&prompt, 6, 1.0);
    let ends = |token: &u32| reference.tokenizer.special().is_stop(*token);
    expected.truncate(expected.iter().position(ends).unwrap_or(6));
    let text = reference.tokenizer.decode(&expected, true).expect("a text");
    let own = ["--model", &model, "--system-prompt", "Be short.", "--max-tokens", "6", "--json"];
    let given = succeed(NAME, &[&own[..], &["--prompt", "What keels?"]].concat());
    let given: Value = serde_json::from_str(&given).expect("JSON");
    assert_eq!(given["text"], text);
    assert_eq!(given["prompt_tokens"], prompt.len());

    // From standard input it is the same.
    let mut child = command(NAME, &[&own[..], &["-p", "-"]].concat());
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().expect("started");
    child.stdin.take().expect("piped").write_all(b"What keels?").expect("written");
    let output = child.wait_with_output().expect("an end");
    let piped: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&piped["text"], &piped["tokens"]), (&given["text"], &given["tokens"]));
}

#[test]
fn samples_have_seeds_of_their_own() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    write_model(&gpu, &place);
    let model = write_gguf(&place);
    let own = ["--model", &model, "--prompt", "keel", "--json", "--temp", "1.5", "--top-k", "200"];
    let more = ["--min-p", "0.001", "--repetition-penalty", "1.1", "--max-tokens", "5"];
    let own = [&own[..], &more, &["--quantize", "q8_0"]].concat();
    let three = [&own[..], &["--num-samples", "3", "--seed", "4"]].concat();
    let three = lines(&succeed(NAME, &three));
    let alone = lines(&succeed(NAME, &[&own[..], &["--seed", "5"]].concat()));
    assert_eq!((three.len(), alone.len()), (3, 1));
    assert_eq!([4, 5, 6], [0, 1, 2].map(|at: usize| three[at]["seed"].as_u64().expect("a seed")));
    assert_eq!(three[1]["text"], alone[0]["text"]);
    assert!(three[0]["text"] != three[1]["text"] || three[1]["text"] != three[2]["text"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_ends_a_text() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    // Longer than the context, which is said.
    let own = ["--model", &model, "--prompt", "keel", "--ignore-chat-template"];
    let arguments = [&own[..], &["--max-tokens", "1000000", "--temp", "1"]].concat();
    let mut child = command(NAME, &arguments);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    wait_until_it_listens(&mut child);
    let mut out = child.stdout.take().expect("piped");
    // It may end before by itself, with one of the tokens for that, but rarely.
    out.read_exact(&mut [0]).expect("a letter");
    send("-INT", &child);
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("warning: ") && said.contains("context of 128"), "{said}");
    assert_eq!(output.status.code(), Some(130), "{said}");
}

#[test]
fn what_cannot_be_generated_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let missing = place.path("missing");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--model", &missing], &[&missing, "there is no folder", "config.json"]),
        (&["--model", &model, "--adapter-path", &missing], &[&missing, "adapter_config.json"]),
        (&["--model", &model, "--tokenizer", &missing], &["tokenizer.json"]),
        (&["--model", &model, "--temp", "-1"], &["temperature is -1"]),
        (&["--model", &model, "--top-p", "0"], &["top_p is 0"]),
        (&["--model", &model, "--max-tokens", "0"], &["--max-tokens is 0", "at least 1"]),
        (&["--model", &model, "--num-samples", "0"], &["--num-samples is 0"]),
        (&["--model", &model, "--extra-eos-token", "<no>"], &["\"<no>\"", "--stop"]),
    ];
    for (arguments, parts) in cases {
        refuse(NAME, &[arguments, &["--prompt", "x"]].concat(), parts);
    }
    refuse(NAME, &["--model", &model, "--prompt", ""], &["--prompt is empty"]);
    refuse_usage(NAME, &["--model", &model]);
    refuse_usage(NAME, &["--model", &model, "--prompt", "x", "--quantize", "q5_0"]);
    // Without a template there is no place for a system prompt.
    std::fs::remove_file(place.path("model/tokenizer_config.json")).expect("removed");
    let system = ["--model", &model, "--prompt", "x", "--system-prompt", "y"];
    refuse(NAME, &system, &["--system-prompt", "without a chat template"]);
}
