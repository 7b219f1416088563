//! Data that are read once, in all forms and encodings, and what of them counts.

use std::fs;

use evenkeel::text::{ChatOptions, Conversation, Tokenizer};
use serde_json::json;

use crate::programs::Place;
use crate::tiny_model::write_model;
use crate::{arguments, losses, refuse, run, succeed, support};

const FEW: [&str; 6] = ["--steps", "3", "--sample", "0", "--lr", "0.02"];

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/parquet/{name}.parquet", env!("CARGO_MANIFEST_DIR"))
}

/// Copies a table beside the other data.
fn table(place: &Place, name: &str) -> String {
    let table = format!("{name}.parquet");
    fs::copy(fixture(name), place.path(&table)).expect("a fixture");
    table
}

/// A small run, and what it says.
fn few(place: &Place, out: &str, data: &[&str], more: &[&str]) -> String {
    succeed(&arguments(place, out, data, &[&FEW[..], more].concat()))
}

const MADE: &str = "made, as there is no cache yet";
const FOUND: &str = "those of an earlier start; nothing is tokenized again";

#[test]
fn tokens_are_made_once() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let cache = place.path("tokens");
    for kind in ["characters", "bytes", "bpe:270"] {
        let [one, two, own] = ["one", "two", "own"].map(|out| format!("{kind}-{out}"));
        let shared = ["--tokenizer", kind, "--cache", &cache];
        let text = few(&place, &one, &["text.txt"], &shared);
        assert!(text.contains(MADE), "{text}");
        let text = few(&place, &two, &["text.txt"], &shared);
        assert!(text.contains(FOUND), "{text}");
        let text = few(&place, &own, &["text.txt"], &shared[..2]);
        assert!(text.contains(MADE), "{text}");
        assert_eq!(losses(&place, &one), losses(&place, &two));
        assert_eq!(losses(&place, &one), losses(&place, &own));
        let tokenizer = |out: &str| place.read(&format!("{out}/tokenizer.json"));
        assert_eq!(tokenizer(&one), tokenizer(&two));
    }
    // Other data, another file; and one that is damaged is made again.
    let more = ["--cache", &cache];
    place.write("other.txt", "the keel is wet; the boat\n".repeat(60).as_bytes());
    assert!(few(&place, "other", &["other.txt"], &more).contains(MADE));
    let own = place.path("bytes-own");
    let path = format!("{own}/data.tokens");
    let mut tokens = fs::read(&path).expect("tokens");
    tokens[200] ^= 1;
    fs::write(&path, tokens).expect("written");
    let resumed = ["--resume", &own, "--steps", "4"].map(str::to_owned);
    let text = succeed(&resumed);
    assert!(text.contains("made, as it is damaged"), "{text}");
    let text = succeed(&["--resume", &own, "--steps", "6"].map(str::to_owned));
    assert!(text.contains(FOUND) && text.contains("the run waited for them"), "{text}");
}

#[test]
fn a_run_among_its_data_is_none_of_them() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    fs::create_dir(place.path("texts")).expect("made");
    fs::rename(place.path("text.txt"), place.path("texts/text.txt")).expect("moved");
    let cache = place.path("texts/tokens");
    few(&place, "texts/run", &["texts"], &["--cache", &cache]);
    let out = place.path("texts/run");
    assert!(succeed(&["--resume", &out, "--steps", "5"].map(str::to_owned)).contains(FOUND));
    // A file of its own where the tokens are to be stays.
    place.write("texts/run/data.tokens", b"all that I ever wrote");
    let more = arguments(&place, "texts/run", &["texts/text.txt"], &FEW);
    refuse(&more, 3, &["data.tokens: this is no cache of tokens", "with --cache"]);
    assert_eq!(place.read("texts/run/data.tokens"), "all that I ever wrote");
}

#[test]
fn columns_of_parquet_are_texts() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let line = |n: usize| format!("row {n} keeps the boat even — number {}", n % 7);
    let lines = |rows: &mut dyn Iterator<Item = usize>| -> String {
        rows.map(|n| json!({ "text": line(n) }).to_string() + "\n").collect()
    };
    place.write("rows.jsonl", lines(&mut (0..60)).as_bytes());
    few(&place, "jsonl", &["rows.jsonl"], &[]);
    let expected = losses(&place, "jsonl");
    fs::create_dir(place.path("tables")).expect("made");
    fs::copy(fixture("none"), place.path("tables/a.parquet")).expect("a fixture");
    let tables = [table(&place, "snappy"), table(&place, "gzip"), "tables".to_owned()];
    for (index, data) in tables.iter().enumerate() {
        let out = format!("out{index}");
        few(&place, &out, &[data], &[]);
        assert_eq!(losses(&place, &out), expected, "{data}");
    }

    // Rows without a text are damaged.
    let notes = ["--field", "notes"];
    let fatal = arguments(&place, "out", &["snappy.parquet"], &[&FEW[..], &notes].concat());
    refuse(&fatal, 3, &["snappy.parquet, row 8: its notes is null", "--bad-records skip"]);
    let skip = [&notes[..], &["--bad-records", "skip"]].concat();
    let output = run(&arguments(&place, "notes", &["snappy.parquet"], &[&FEW[..], &skip].concat()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for part in ["row 8: its notes is null", "row 10: its notes is empty", "and 7 more"] {
        assert!(errors.contains(part), "{part:?} is missing in {errors}");
    }
    let mut rest = (0..60).filter(|n| n % 10 != 7 && n % 10 != 9);
    place.write("rest.jsonl", lines(&mut rest).as_bytes());
    few(&place, "rest", &["rest.jsonl"], &[]);
    assert_eq!(losses(&place, "notes"), losses(&place, "rest"));

    let of = |data: &str, more: &[&str], parts: &[&str]| {
        refuse(&arguments(&place, "bad", &[data], &[&FEW[..], more].concat()), 3, parts);
    };
    let ways_out = "those of texts are text, notes: name one with --field";
    of("snappy.parquet", &["--field", "body"], &["it has no column \"body\"", ways_out]);
    of("snappy.parquet", &["--field", "n"], &["column \"n\" is INT64 and no text", ways_out]);
    of(
        &table(&place, "zstd"),
        &[],
        &["zstd.parquet", "compressed as ZSTD", "write it with snappy"],
    );
    place.write("none.parquet", b"PAR1");
    of("none.parquet", &[], &["none.parquet: it is no Parquet file that can be read"]);
}

#[test]
fn other_encodings_and_limits_are_settings() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let line = "café au lait, für die Möwen; the keel\r\n";
    let latin = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<_>>();
    place.write("utf8.txt", line.repeat(40).as_bytes());
    place.write("latin1.txt", &latin(&line.repeat(40)));
    let utf16 = format!("\u{feff}{}", line.repeat(40));
    place.write("utf16.txt", &utf16.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    let records = format!("{{\"text\": \"{}\"}}\n", line.trim_end()).repeat(40);
    place.write("utf8.jsonl", records.as_bytes());
    place.write("latin1.jsonl", &latin(&records));
    for (name, other, more) in [
        ("utf8.txt", "latin1.txt", &["--encoding", "latin1"][..]),
        ("utf8.txt", "utf16.txt", &[]),
        ("utf8.jsonl", "latin1.jsonl", &["--encoding", "windows-1252"]),
    ] {
        let [one, two] = [name, other].map(|name| format!("of-{name}"));
        few(&place, &one, &[name], &[]);
        few(&place, &two, &[other], more);
        assert_eq!(losses(&place, &one), losses(&place, &two), "{other}");
    }
    let of = |data: &str, more: &[&str], parts: &[&str]| {
        refuse(&arguments(&place, "bad", &[data], &[&FEW[..], more].concat()), 3, parts);
    };
    of("latin1.jsonl", &[], &["latin1.jsonl, line 1: byte 0xE9", "windows-1252 for Latin-1"]);
    of("utf8.txt", &["--encoding", "klingon"], &["the encoding \"klingon\"", "UTF-8"]);
    of("utf8.jsonl", &["--longest-record", "40"], &["line 1: it has 5", "the limit of 40"]);
    of("utf8.jsonl", &["--longest-record", "0"], &["--longest-record is 0"]);
    let twice = "{\"text\": \"a boat\", \"text\": \"a keel\"}\n";
    place.write("twice.jsonl", [&records, twice].concat().as_bytes());
    of("twice.jsonl", &[], &["twice.jsonl, line 41: it is no JSON: it has the key \"text\" twice"]);
    if cfg!(unix) {
        let pipe = place.path("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        of("pipe", &[], &["pipe: this can be read only once", "write them to a file"]);
    }
}

/// Records with a question and an answer, the first in line 1.
fn records(place: &Place) -> Vec<[String; 2]> {
    let pair = |n: usize| [format!("how many keels has boat {n}?"), format!(" it has {n}.")];
    let pairs: Vec<_> = (0..50).map(pair).collect();
    let line = |[prompt, completion]: &[String; 2]| {
        json!({ "prompt": prompt, "completion": completion }).to_string() + "\n"
    };
    place.write("pairs.jsonl", pairs.iter().map(line).collect::<String>().as_bytes());
    pairs
}

#[test]
fn prompts_are_left_out_of_the_loss() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let pairs = records(&place);
    let bpe = ["--tokenizer", "bpe:280"];
    let masked = [&bpe[..], &["--mask-prompt"]].concat();
    let all = few(&place, "all", &["pairs.jsonl"], &bpe);
    let text = few(&place, "masked", &["pairs.jsonl"], &masked);

    let tokenizer = Tokenizer::open(place.path("masked/model")).expect("a tokenizer");
    let length = |text: &str| tokenizer.encode(text, false).expect("ids").len();
    let tokens: usize =
        pairs.iter().map(|[prompt, answer]| length(&format!("{prompt}{answer}")) + 1).sum();
    let prompts: usize = pairs.iter().map(|[prompt, _]| length(prompt)).sum();
    let counted = format!("{tokens} tokens, {} of which count for the loss", tokens - prompts);
    assert!(text.contains(&counted), "{counted:?} is missing in {text}");
    assert!(all.contains(&format!("{tokens} tokens, vocabulary")), "{all}");
    assert_ne!(losses(&place, "all"), losses(&place, "masked"));
    // It goes on with the same mask, which cannot change.
    let out = place.path("masked");
    let resume = |more: &[&str]| -> Vec<String> {
        ["--resume", &out].iter().chain(more).map(|one| (*one).to_owned()).collect()
    };
    assert!(succeed(&resume(&["--steps", "5"])).contains(FOUND));
    let plain = place.path("all");
    let other = ["--resume", &plain, "--mask-prompt"].map(str::to_owned);
    refuse(&other, 3, &["--mask-prompt true in a run that has false"]);

    let of = |data: &str, more: &[&str], parts: &[&str]| {
        refuse(&arguments(&place, "bad", &[data], &[&FEW[..], more].concat()), 3, parts);
    };
    of("text.txt", &masked, &["text.txt: --mask-prompt: a text has no prompt to leave out"]);
    of("pairs.jsonl", &["--mask-prompt", "--field", "prompt"], &["--mask-prompt with --field"]);
    // A field alone is a text.
    few(&place, "prompts", &["pairs.jsonl"], &["--field", "prompt"]);
}

#[test]
fn conversations_take_a_template_and_damaged_ones_are_left_out() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let tokenizer = Tokenizer::open(&model).expect("a tokenizer");
    let (mut lines, mut tokens, mut counted) = (Vec::new(), 0, 0);
    for n in 0..40 {
        let [question, answer] = ["how many keels?".to_owned(), format!("boat {n} has one")];
        let asked = Conversation::new().with("user", &question);
        let whole = asked.clone().with("assistant", &answer);
        let length = |chat: &Conversation, add_generation_prompt| {
            let options = ChatOptions { add_generation_prompt, ..ChatOptions::default() };
            tokenizer.encode_chat(chat, &options).expect("ids").len()
        };
        tokens += length(&whole, false);
        counted += length(&whole, false) - length(&asked, true);
        let message = |role: &str, text: String| json!({ "role": role, "content": text });
        let messages = [message("user", question), message("assistant", answer)];
        lines.push(json!({ "messages": messages }).to_string());
    }
    let question = json!({ "messages": [{ "role": "user", "content": "no answer" }] }).to_string();
    lines.insert(2, question);
    place.write("chats.jsonl", lines.join("\n").as_bytes());
    let data = place.path("chats.jsonl");
    let chats = |more: &[&str]| -> Vec<String> {
        let out = place.path("out");
        let own = ["--data", &data, "--out", &out, "--model", &model, "--context", "16"];
        let all = [&own[..], &FEW, &["--batch", "4", "--mask-prompt"], more].concat();
        all.iter().map(|one| (*one).to_owned()).collect()
    };
    let parts = ["chats.jsonl, line 3: ", "no message of the assistant", "--bad-records"];
    refuse(&chats(&[]), 3, &parts);
    let output = run(&chats(&["--bad-records", "skip"]));
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    let says = format!("{tokens} tokens, {counted} of which count for the loss");
    assert!(output.status.success() && text.contains(&says), "{says}: {text}{errors}");
    assert!(errors.contains("skipped ") && errors.contains("chats.jsonl, line 3: "), "{errors}");
    // A vocabulary of characters has no template.
    let plain = arguments(&place, "bad", &["chats.jsonl"], &FEW);
    refuse(&plain, 3, &["template"]);
}
