//! `evenkeel chat`

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::programs::{Place, command, succeed};
use crate::tiny_model::write_model;
use crate::{refuse, send, support, wait_until_it_listens};

const NAME: &str = "evenkeel chat";

fn talk(arguments: &[&str], said: &str) -> Output {
    let mut child = command(NAME, arguments);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("started");
    child.stdin.take().expect("piped").write_all(said.as_bytes()).expect("written");
    child.wait_with_output().expect("an end")
}

#[test]
fn messages_are_answered_as_generate_does() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let sampling = ["--max-tokens", "6", "--temp", "1", "--seed", "3", "--system-prompt", "Be."];
    let own = [&["--model", &*model], &sampling[..]].concat();
    let answer = |message: &str| {
        let text = succeed("evenkeel generate", &[&own[..], &["--json", "-p", message]].concat());
        let line: Value = serde_json::from_str(&text).expect("JSON");
        line["text"].as_str().expect("a text").to_owned()
    };
    let (one, several) = (answer("What keels?"), answer("a\nb"));
    let said = "/help\nWhat keels?\n/reset\n\nWhat keels?\n/what\n/reset\n\"\"\"\na\nb\n\"\"\"\n";
    let output = talk(&own, said);
    let (text, errors) =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).into();
    assert!(output.status.success(), "{errors}");
    assert_eq!(text, format!("{one}\n{one}\n{several}\n"));
    for part in ["/reset  forget", "/what is not known", "prompt: ", "generation: "] {
        assert!(errors.contains(part), "{part:?} is missing in {errors}");
    }
}

/// Ctrl-C ends the answer, the program goes on, and where it waits another one ends it.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_ends_an_answer_and_a_second_one_the_program() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let endless = ["--model", &*model, "--max-tokens", "1000000", "--temp", "1"];
    let mut child = command(NAME, &endless);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("started");
    let mut input = child.stdin.take().expect("piped");
    let mut out = child.stdout.take().expect("piped");
    wait_until_it_listens(&mut child);
    input.write_all(b"What keels?\n").expect("written");
    out.read_exact(&mut [0]).expect("a letter");
    send("-INT", &child);
    // Nobody may wait for the pipe to be read.
    let rest = std::thread::spawn(move || drop(out.read_to_end(&mut Vec::new())));
    input.write_all(b"/what\n").expect("written");
    let mut errors = BufReader::new(child.stderr.take().expect("piped")).lines();
    let found = errors.any(|line| line.expect("a line").contains("/what is not known"));
    assert!(found, "the answer did not end");
    assert!(child.try_wait().expect("a child").is_none(), "one signal ended it");
    send("-INT", &child);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    rest.join().expect("an end");
}

#[test]
fn what_cannot_be_talked_with_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let missing = place.path("missing");
    refuse(NAME, &["--model", &missing], &[&missing, "there is no folder"]);
    refuse(NAME, &["--model", &model, "--max-kv-size", "1000"], &["context is 1000"]);
    refuse(NAME, &["--model", &model, "--min-p", "2"], &["min_p is 2"]);
    std::fs::remove_file(place.path("model/tokenizer_config.json")).expect("removed");
    refuse(NAME, &["--model", &model], &["no default chat template"]);
}
