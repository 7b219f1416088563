//! `evenkeel evaluate`

use std::process::Stdio;

use evenkeel::text::{Completions, Examples, LossOn, Supervision};
use serde_json::{Value, json};

use crate::models::{Reference, write_adapter};
use crate::programs::{Place, command, succeed};
use crate::tiny_model::{write_lines, write_model};
use crate::{refuse, refuse_usage, send, support, wait_until_it_listens};

const NAME: &str = "evenkeel evaluate";

fn measured(arguments: &[&str]) -> Value {
    let text = succeed(NAME, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn check(found: &Value, expected: f64) {
    let found = found.as_f64().expect("a number");
    // Sums of f32 on the device against f64 of its logits.
    assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{found} and not {expected}");
}

/// Loss and tokens of a text in pieces: the text before each piece is not seen.
fn in_pieces(reference: &Reference, tokens: &[u32], context: usize) -> (f64, usize) {
    let starts = (0..tokens.len() - 1).step_by(context);
    let pieces = starts.map(|start| &tokens[start..tokens.len().min(start + context + 1)]);
    let losses: Vec<_> = pieces.flat_map(|piece| reference.losses(piece)).collect();
    (losses.iter().sum(), losses.len())
}

#[test]
fn a_text_has_the_loss_of_its_logits() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let text = "The keel keeps the boat even; the boat keeps the keel wet. É, it's 12 m long.\n";
    let file = place.write("one.txt", text.as_bytes());
    let own = ["--model", &model, "--data", &file, "--max-seq-length", "20"];
    for adapter in [None, Some(&*adapter)] {
        let reference = Reference::open(&gpu, &model, adapter);
        let tokens = reference.tokenizer.encode(text, true).expect("ids");
        let (loss, count) = in_pieces(&reference, &tokens, 20);
        let with = adapter.map_or(vec![], |adapter| vec!["--adapter-path", adapter]);
        let found = &measured(&[&own[..], &with].concat())["texts"];
        assert_eq!(found["tokens"], count);
        check(&found["loss"], loss / count as f64);
        check(&found["perplexity"], (loss / count as f64).exp());
        // The first token is not predicted, and its bytes are none of those that count.
        let first = reference.tokenizer.decode(&tokens[..1], true).expect("a text").len();
        assert_eq!(found["bytes"], text.len() - first);
        check(&found["bits_per_byte"], loss / 2f64.ln() / (text.len() - first) as f64);
    }

    // With a smaller stride all tokens count once still, those behind the first piece with more before
    // them.
    let reference = Reference::open(&gpu, &model, None);
    let tokens = reference.tokenizer.encode(text, true).expect("ids");
    let mut loss = 0.0;
    let (mut start, mut seen) = (0, 1);
    while seen < tokens.len() {
        let end = tokens.len().min(start + 21);
        let losses = reference.losses(&tokens[start..end]);
        loss += losses[seen - start - 1..].iter().sum::<f64>();
        (seen, start) = (end, start + 7);
    }
    let found = &measured(&[&own[..], &["--stride", "7", "--batch-size", "3"]].concat())["texts"];
    assert_eq!(found["tokens"], tokens.len() - 1);
    check(&found["loss"], loss / (tokens.len() - 1) as f64);

    let line = succeed(NAME, &own);
    assert!(line.starts_with("loss ") && line.contains("bits per byte"), "{line}");
}

#[test]
fn lines_count_as_they_are_learned() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let chats = place.read_lines();
    let lines =
        chats + "{\"prompt\": \"a keel\", \"completion\": \" is long\"}\n{\"text\": \"wet\"}\n";
    std::fs::create_dir(place.path("data")).expect("made");
    place.write("data/lines.jsonl", lines.as_bytes());
    place.write("data/other.md", b"not read");
    let reference = Reference::open(&gpu, &model, None);
    let examples = Examples::parse("lines", lines.as_bytes()).expect("lines");
    for (mask, loss_on) in [(&[][..], LossOn::All), (&["--mask-prompt"][..], LossOn::Answers)] {
        let supervision =
            Supervision { loss_on, completions: Completions::Chat, ..Supervision::default() };
        let (samples, _) =
            supervision.encode_all(&reference.tokenizer, &examples).expect("samples");
        let (mut loss, mut count) = (0.0, 0);
        for sample in &samples {
            let losses = reference.losses(&sample.tokens);
            let counted = losses.iter().zip(&sample.counts[1..]).filter(|(_, counts)| **counts);
            counted.for_each(|(own, _)| {
                loss += own;
                count += 1;
            });
        }
        let own = ["--model", &*model, "--data", &place.path("data")];
        let found = &measured(&[&own[..], mask].concat())["texts"];
        assert_eq!(found["tokens"], count, "{mask:?}");
        check(&found["loss"], loss / f64::from(count));
    }
    // A folder of mlx-lm's layout is measured on what it has for that.
    place.write("data/test.jsonl", b"{\"text\": \"a keel is wet\"}\n");
    let found = measured(&["--model", &model, "--data", &place.path("data")]);
    assert_eq!(found["texts"]["files"], json!([place.path("data/test.jsonl")]));
}

#[test]
fn choices_are_scored_as_a_whole_and_by_length() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let reference = Reference::open(&gpu, &model, None);
    let questions = ["What keeps the boat even?", "Who is wet? ", "12 + 1 ="];
    let choices = ["The keel.", "a", "nobody, but the keel of the boat", "é"];
    let ids = |text: &str, special| reference.tokenizer.encode(text, special).expect("ids");
    let (mut lines, mut right, mut right_by_length) = (String::new(), 0, 0);
    for (index, question) in questions.into_iter().enumerate() {
        let asked = question.trim_end();
        let losses = choices.map(|choice| {
            let text = format!("{question} {choice}");
            let (tokens, first) = (ids(&text, true), ids(asked, true).len());
            reference.losses(&tokens)[first - 1..].iter().sum::<f64>()
        });
        let least = |losses: [f64; 4]| {
            (0..4).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).expect("four")
        };
        let best = least(losses);
        let by_length =
            least([0, 1, 2, 3].map(|at| losses[at] / choices[at].chars().count() as f64));
        // One of the three is answered wrongly, whatever the model says.
        let answer = if index == 2 { (best + 1) % 4 } else { best };
        right += usize::from(answer == best);
        right_by_length += usize::from(answer == by_length);
        let answer = match index {
            0 => json!(answer),
            1 => json!(["A", "B", "C", "D"][answer]),
            _ => json!(choices[answer]),
        };
        let line = json!({ "question": question, "choices": choices, "answer": answer });
        lines += &format!("{line}\n");
    }
    assert_eq!(right, 2);
    let file = place.write("choices.jsonl", lines.as_bytes());
    let found = &measured(&["--model", &model, "--choices", &file])["choices"];
    assert_eq!(found["questions"], 3);
    check(&found["acc"], 2.0 / 3.0);
    let by_length = right_by_length as f64 / 3.0;
    assert!((found["acc_norm"].as_f64().expect("a share") - by_length).abs() < 1e-12, "{found}");
    // sqrt(p (1 - p) / (n - 1)), as of a mean of samples.
    check(&found["acc_stderr"], (2.0 / 9.0 / 2.0f64).sqrt());
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_ends_a_measurement() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let file = place.write("long.txt", "the keel keeps the boat even\n".repeat(20_000).as_bytes());
    let own = ["--model", &model, "--data", &file, "--max-seq-length", "16", "--batch-size", "1"];
    let mut child = command(NAME, &own);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    wait_until_it_listens(&mut child);
    send("-INT", &child);
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("a signal came: this is of"), "{said}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let missing = place.path("missing.txt");
    std::fs::create_dir(place.path("empty")).expect("made");
    let empty = place.path("empty");
    let short = place.write("short.txt", b"a");
    let picture = place.write("picture.png", b"x");
    let broken = place.write("broken.jsonl", b"{\"text\": \"a keel\"}\n{\"txt\": 1}\n");
    let bad = place.write("bad.jsonl", b"{\"question\": \"a\", \"choices\": [\"b\", \"c\"]}\n");
    let beyond = br#"{"question": "a", "choices": ["b", "c"], "answer": 2}"#;
    let beyond = place.write("beyond.jsonl", beyond);
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--data", &missing], &[&missing, "cannot be read"]),
        (&["--data", &empty], &[&empty, "no .txt and no .jsonl"]),
        (&["--data", &short], &["short.txt", "nothing in it counts"]),
        (&["--data", &picture], &["picture.png", ".jsonl"]),
        (&["--data", &broken], &["broken.jsonl, line 2", "txt"]),
        (&["--choices", &bad], &["bad.jsonl, line 1", "answer"]),
        (&["--choices", &beyond], &["beyond.jsonl, line 1", "its answer is 2", "0 to 1"]),
        (&["--data", &short, "--max-seq-length", "500"], &["--max-seq-length is 500"]),
        (&["--data", &short, "--stride", "0"], &["--stride is 0"]),
    ];
    for (arguments, parts) in cases {
        refuse(NAME, &[&["--model", &*model], arguments].concat(), parts);
    }
    refuse_usage(NAME, &["--model", &model]);
}

impl Place {
    /// The lines of two conversations.
    fn read_lines(&self) -> String {
        write_lines(self, 2);
        self.read("lines.jsonl")
    }
}
