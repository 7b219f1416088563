//! What is refused before anything is computed, and costs nothing that was there.

use std::fs;

use crate::programs::{Place, borrowed, check_failure, without_adapter};
use crate::{TRAIN, check_refusal, refuse, run, support};

#[test]
fn texts_that_are_none_are_named() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let refuse_text = |text: &str, parts: &[&str]| {
        let arguments = place.arguments(Some(text), &[]);
        check_refusal(&run(&arguments), &arguments, parts);
    };
    let marked = place.write("mark.txt", b"\xff\xfe");
    refuse_text(&marked, &[&marked, "the text is empty"]);
    let latin1 = place.write("latin1.txt", b"two\nlines, caf\xe9\n");
    refuse_text(&latin1, &[&latin1, "line 2: byte 0xE9 at byte 10 of the line is no UTF-8"]);
    let wide: Vec<u8> = "no mark\n".repeat(40).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = place.write("wide.txt", &wide);
    refuse_text(&wide, &[&wide, "UTF-16 (little-endian)", "byte-order mark"]);
    if cfg!(unix) {
        refuse_text("/dev/zero", &["/dev/zero: this is a device"]);
    }
    let short = place.write("short.txt", b"a text of 27 characters. ok");
    let parts = [&*short, "27 tokens", "a context of 16 needs 34", "at most 12"];
    refuse_text(&short, &parts);
    refuse(&place, &["--prompt", "Z"], &["'Z'", "vocabulary", "'\\n' to 'w'"]);
    refuse(&place, &["--prompt", ""], &["--prompt is empty"]);
}

#[test]
fn files_that_are_folders_are_named() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let (folder, below) = (place.path(""), place.path("text.txt/out"));
    refuse(&place, &["--out", &below], &[&below, "cannot be written", "--out"]);
    for option in ["--metrics", "--csv", "--report", "--profile"] {
        refuse(&place, &[option, &folder], &["cannot be written", option]);
    }
    let parts = [&*below, "cannot be written", "--tensorboard"];
    refuse(&place, &["--tensorboard", &below], &parts);
    // Standard output is no terminal here.
    refuse(&place, &["--steps", "1", "--dashboard"], &["dashboard", "is not supported"]);
}

#[test]
fn settings_are_refused_and_files_kept() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    fs::create_dir(place.path("out")).expect("a folder");
    let kept = ["out/metrics.jsonl", "out/training.svg", "out/sample.txt"];
    kept.iter().for_each(|name| drop(place.write(name, b"an earlier run\n")));
    let cases: [(&[&str], &[&str]); 13] = [
        (&["--steps", "0"], &["--steps is 0", "at least 1"]),
        (&["--batch", "0"], &["--batch is 0", "at least 1"]),
        (&["--accumulation", "0"], &["--accumulation is 0", "at least 1"]),
        (&["--context", "0"], &["--context is 0", "at least 1"]),
        (&["--layers", "0"], &["--layers is 0", "at least 1"]),
        (&["--width", "30", "--heads", "4"], &["--heads is 4 with a --width of 30", "divisor"]),
        (&["--width", "12", "--heads", "2"], &["width / heads is 6", "multiple of 4"]),
        (&["--family", "llama", "--kv-heads", "3"], &["--kv-heads is 3 with 2 --heads", "divisor"]),
        (&["--lr", "nan"], &["--lr is NaN", "finite"]),
        (&["--lr", "-1"], &["--lr is -1", "above 0"]),
        (&["--clip", "inf"], &["--clip is inf", "finite"]),
        (&["--dropout", "1"], &["--dropout is 1", "[0, 1)"]),
        (&["--temperature", "-1"], &["--temperature is -1", "not negative"]),
    ];
    for (more, parts) in cases {
        refuse(&place, more, parts);
    }
    let large = place.arguments(None, &["--batch", "4000000"]);
    let parts = ["of shape (4000000, 16, 16)", "maxStorageBufferBindingSize", "4096000000", "fit"];
    check_failure(&run(&large), 4, &borrowed(&large), &parts);
    for name in kept {
        assert_eq!(place.read(name), "an earlier run\n", "{name}");
    }
}

#[test]
fn without_an_adapter_there_is_a_code_for_that() {
    let place = Place::new();
    let arguments = place.arguments(None, &["--quiet"]);
    let arguments = borrowed(&arguments);
    let output = without_adapter(TRAIN, &place, &arguments);
    check_failure(&output, 6, &arguments, &["no GPU adapter found", "install a Vulkan"]);
}
