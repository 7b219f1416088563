//! Kinds of data and vocabularies, and the models that come out.

use std::fs;

use evenkeel::hugging_face::Folder;
use evenkeel::text::Tokenizer;

use crate::programs::Place;
use crate::{arguments, is_there, losses, refuse, succeed, support};

const LINE: &str = "the keel keeps the boat even; the boat keeps the keel wet.\n";
const QUICK: [&str; 6] = ["--steps", "30", "--lr", "0.02", "--sample", "20"];

#[test]
fn characters_are_learned() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let html = place.path("run.html");
    let more = [&QUICK[..], &["--report", &html]].concat();
    let text = succeed(&arguments(&place, "out", &["text.txt"], &more));
    for part in
        ["adapter ", "17 characters", "30 steps, adamw", "passes ", "MiB", "validation", "best "]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let losses = losses(&place, "out");
    // 17 characters: ln 17 = 2.833.
    assert!((losses[0] - 2.833).abs() < 0.1 && losses[29] < 2.2, "{losses:?}");
    let sample = place.read("out/sample.txt");
    let prompt = "the keel keeps the boat even; th";
    assert!(sample.starts_with(prompt), "{sample:?}");
    assert_eq!(sample.chars().count(), prompt.len() + 20);
    assert!(text.contains(&sample) && place.read("run.html").contains("</html>"), "{text}");

    // What comes out is a model that others read, its vocabulary too.
    for name in ["out/model", "out/best"] {
        let folder = Folder::open(place.path(name)).expect("a folder");
        let tokenizer = Tokenizer::open(place.path(name)).expect("a tokenizer");
        tokenizer.check(&folder.config().gpt).expect("they fit");
        assert_eq!((folder.config().gpt.layers, folder.config().gpt.vocabulary), (1, 17));
        let ids = tokenizer.encode(LINE, true).expect("known characters");
        assert_eq!((ids.len(), tokenizer.decode(&ids, true).expect("text")), (59, LINE.into()));
    }
}

#[test]
fn byte_pairs_are_learned_from_folders_and_records() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    fs::create_dir_all(place.path("texts/deep")).expect("made");
    place.write("texts/a.txt", LINE.repeat(20).as_bytes());
    place.write("texts/deep/b.txt", LINE.repeat(20).as_bytes());
    let record = |n: usize| format!("{{\"n\": {n}, \"body\": \"{}\"}}\n", LINE.trim_end());
    place.write("more.jsonl", (0..40).map(record).collect::<String>().as_bytes());
    let more = ["--tokenizer", "bpe:300", "--field", "body", "--family", "llama"];
    let more = [&QUICK[..], &more].concat();
    let text = succeed(&arguments(&place, "out", &["texts", "more.jsonl"], &more));
    assert!(text.contains("3 files") && text.contains("byte pairs, learned"), "{text}");
    let losses = losses(&place, "out");
    assert!(losses[29] < losses[0] - 1.0, "{losses:?}");

    let tokenizer = Tokenizer::open(place.path("out/model")).expect("a tokenizer");
    let folder = Folder::open(place.path("out/model")).expect("a folder");
    assert_eq!(folder.config().family().model_type(), "llama");
    // All pairs of these words are fewer than were asked for.
    assert!((258..=300).contains(&tokenizer.size()), "{}", tokenizer.size());
    assert_eq!(tokenizer.size(), folder.config().gpt.vocabulary);
    let ids = tokenizer.encode(LINE, true).expect("ids");
    assert!(ids.len() < 20, "{ids:?}");
    assert_eq!(tokenizer.special().eos, tokenizer.id("<|endoftext|>"));
    assert_eq!(place.read("out/tokenizer.json"), place.read("out/model/tokenizer.json"));
}

#[test]
fn bytes_and_other_tokenizers() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    place.write("latin1.txt", &b"caf\xe9 au lait\n".repeat(40));
    let more = ["--steps", "2", "--sample", "3", "--tokenizer", "bytes"];
    let text = succeed(&arguments(&place, "bytes", &["latin1.txt"], &more));
    assert!(text.contains("256 bytes") && is_there(&place, "bytes/model/tokenizer.json"), "{text}");

    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/gpt2");
    for (out, path) in
        [("folder", fixture.to_owned()), ("file", format!("{fixture}/tokenizer.json"))]
    {
        let more = ["--steps", "2", "--sample", "3", "--tokenizer", &path];
        succeed(&arguments(&place, out, &["text.txt"], &more));
        let ours = Tokenizer::open(place.path(out) + "/model").expect("a tokenizer");
        let theirs = Tokenizer::open(fixture).expect("a tokenizer");
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(LINE, false).expect("ids");
        assert_eq!(ids(&ours), ids(&theirs));
    }
}

#[test]
fn damaged_records_are_named_and_left_out_on_request() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let good = format!("{{\"text\": \"{}\"}}\n", LINE.trim_end().repeat(4));
    let all = format!("{good}{{\"text\": \n{good}\n{{\"text\": \"\"}}\n{good}{{\"t\": 1}}\n{good}");
    place.write("records.jsonl", all.as_bytes());
    let data = ["records.jsonl"];
    let more = ["--steps", "2", "--sample", "0"];
    let fatal = arguments(&place, "out", &data, &more);
    refuse(&fatal, 3, &["records.jsonl, line 2: it is no JSON", "--bad-records skip"]);
    let all = arguments(&place, "out", &data, &[&more[..], &["--bad-records", "skip"]].concat());
    let output = crate::run(&all);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for part in [
        "line 2: it is no JSON: EOF",
        "line 4: it is empty",
        "line 5: its text is empty",
        "line 7: it",
    ] {
        assert!(errors.contains(part), "{part:?} is missing in {errors}");
    }
    assert_eq!(losses(&place, "out").len(), 2);
}

/// Each rule trains, and each shape of the schedule is what the rates are.
#[test]
fn optimizers_and_schedules_are_those_that_were_asked_for() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let rate = |out: &str, step: usize| {
        let lines = crate::lines(&place.read(&format!("{out}/metrics.jsonl")));
        lines[step]["learning_rate"].as_f64().expect("a number")
    };
    let near =
        |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-5, "{found}");
    for (out, optimizer, schedule, middle) in [
        ("adamw", "adamw", "constant", 1.0),
        ("muon", "muon", "linear", 0.55),
        ("lion", "lion", "cosine", 0.55),
        ("sgd", "sgd", "linear", 0.55),
        ("adafactor", "adafactor", "cosine", 0.55),
    ] {
        let more = ["--steps", "10", "--warmup", "2", "--lr", "0.01", "--sample", "0", "--quiet"];
        let chosen = ["--optimizer", optimizer, "--schedule", schedule, "--save-every", "0"];
        let more = [&more[..], &chosen, &["--accumulation", "2"]].concat();
        let text = succeed(&arguments(&place, out, &["text.txt"], &more));
        assert!(!text.contains("adapter "), "{text}");
        near(rate(out, 0), 0.005);
        near(rate(out, 2), 0.01);
        // Half of the way from step 2 to step 10.
        near(rate(out, 6), 0.01 * middle);
        let losses = losses(&place, out);
        assert!(losses[9] < losses[0], "{optimizer}: {losses:?}");
    }
}
