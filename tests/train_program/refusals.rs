//! Each kind of bad input, with the exit code that it has.

use std::fs;

use crate::programs::{Place, SMALL};
use crate::{arguments, is_there, refuse, run, support};

#[test]
fn bad_input_is_named_before_anything_is_computed() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    place.write("empty.txt", b"");
    place.write("latin1.txt", b"caf\xe9 au lait\n");
    place.write("short.txt", b"short");
    place.write("table.parquet", b"PAR1");
    place.write("packed.gz", b"packed");
    fs::create_dir(place.path("nothing")).expect("made");
    let of = |data: &str, parts: &[&str]| {
        refuse(&arguments(&place, "out", &[data], &["--steps", "2"]), 3, parts);
    };
    of("none.txt", &["none.txt", "cannot be read"]);
    of("empty.txt", &["empty.txt", "the text is empty"]);
    of("latin1.txt", &["latin1.txt, line 1", "byte 0xE9 at byte 3 of the line", "windows-1252"]);
    of("short.txt", &["short.txt", "has 5 tokens", "context of 16"]);
    of("table.parquet", &["table.parquet", "no Parquet file that can be read"]);
    of("packed.gz", &["packed.gz", "unpack it first"]);
    of("nothing", &["nothing", "no files in this folder"]);

    let with = |more: &[&str], parts: &[&str]| {
        refuse(&arguments(&place, "out", &["text.txt"], more), 3, parts);
    };
    with(&["--steps", "0"], &["--steps is 0", "at least 1"]);
    with(&["--lr", "-1"], &["--lr is -1", "above 0"]);
    with(&["--dropout", "1"], &["--dropout is 1"]);
    with(&["--keep", "0"], &["--keep is 0"]);
    with(&["--validation-share", "1"], &["validation is 1", "[0, 1)"]);
    with(&["--tokenizer", "bpe:20"], &["--tokenizer is bpe:20", "257"]);
    with(&["--tokenizer", "words"], &["words", "no such tokenizer"]);
    with(&["--prompt", "XYZ"], &["'X'", "the vocabulary does not have it"]);
    with(&["--steps", "3", "--budget", "3h"], &["--steps with --budget"]);
    with(&["--depth", "2", "--preset", "tiny"], &["--depth with --preset"]);
    with(&["--kv-heads", "1"], &["--kv-heads", "--family llama"]);
    let text = place.path("text.txt");
    with(&["--csv", &text], &["text.txt", "--data and --csv both name this file"]);
    let file = place.path("text.txt/run");
    let all = ["--data", &text, "--out", &file].map(str::to_owned);
    refuse(&all, 3, &["cannot be written", "--out"]);
    let none = place.path("none");
    let own = [&SMALL[..], &["--out", &none]].concat();
    let own: Vec<_> = own.iter().map(|one| (*one).to_owned()).collect();
    refuse(&own, 3, &["a run without data", "--data"]);
    assert!(!is_there(&place, "none") && !is_there(&place, "out/checkpoint.safetensors"));
}

#[test]
fn a_command_line_that_is_none_ends_with_two() {
    let place = Place::new();
    for more in [
        &["--layer", "3"][..],
        &["--batch", "many"],
        &["--budget", "3 weeks"],
        &["--schedule", "stairs"],
        &["--restart", "--resume", "here"],
    ] {
        let output = run(&arguments(&place, "out", &["text.txt"], more));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.starts_with("error: "), "{error}");
    }
}

#[test]
fn unfinished_runs_are_not_written_over_and_hopeless_ones_give_up() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    // Every gradient overflows, and nothing else is asked of the run than to go on.
    let more = ["--steps", "400", "--lr", "1e30", "--clip", "0", "--weight-decay", "0"];
    let more = [&more[..], &["--save-every", "10", "--sample", "0", "--warmup", "1"]].concat();
    let gives_up = arguments(&place, "out", &["text.txt"], &more);
    let output = run(&gives_up);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(error.contains("training gave up"), "{error}");

    let parts = ["there is a run", "--resume", "--restart", "--out"];
    refuse(&arguments(&place, "out", &["text.txt"], &["--steps", "3"]), 3, &parts);
    let more = ["--steps", "3", "--restart", "--sample", "0", "--quiet"];
    crate::succeed(&arguments(&place, "out", &["text.txt"], &more));
    assert_eq!(crate::losses(&place, "out").len(), 3);
    let kept = crate::kept(&place, "out");
    assert_eq!(kept.last().map(String::as_str), Some("step-00000003.safetensors"));
}
