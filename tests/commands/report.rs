//! `evenkeel report`

use evenkeel::watch::{JsonLines, Record, Sink};

use crate::programs::{Place, run, succeed};
use crate::{refuse, refuse_usage};

const NAME: &str = "evenkeel report";

fn write_records(place: &Place, steps: u64) -> String {
    std::fs::create_dir(place.path("my-run")).expect("made");
    let mut metrics = JsonLines::create(place.path("my-run/metrics.jsonl")).expect("a file");
    for step in 0..steps {
        let record = Record::new(step).with("loss", 4.0 / (step + 1) as f64);
        metrics.record(&record.with("gradient_norm", 0.5)).expect("written");
    }
    metrics.finish().expect("written");
    place.path("my-run")
}

#[test]
fn the_records_of_a_run_are_drawn() {
    let place = Place::new();
    let folder = write_records(&place, 40);
    let text = succeed(NAME, &[&folder]);
    assert!(text.contains("report.html") && text.contains("40 steps"), "{text}");
    let page = place.read("my-run/report.html");
    assert!(page.contains("<h1>my-run</h1>") && page.contains("<svg"), "{page}");

    // A file elsewhere, under another name, out of a run that was killed as it wrote a line.
    let whole = place.read("my-run/metrics.jsonl");
    let cut = place.write("cut.jsonl", &whole.as_bytes()[..whole.len() - 9]);
    let out = place.path("page.html");
    let output = run(NAME, &[&cut, "--out", &out, "--title", "a < b", "--threshold", "1"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("warning: ") && said.contains("line 40"), "{said}");
    assert!(place.read("page.html").contains("<h1>a &lt; b</h1>"));
}

#[test]
fn what_is_no_run_is_named() {
    let place = Place::new();
    let missing = place.path("missing");
    refuse(NAME, &[&missing], &[&missing, "there is no folder"]);
    refuse(NAME, &[&place.path("")], &["there is no metrics.jsonl"]);
    refuse(NAME, &[&place.path("text.txt")], &["text.txt", "no records"]);
    let folder = write_records(&place, 2);
    refuse(NAME, &[&folder, "--out", &place.path("none/a.html")], &["cannot be written"]);
    refuse_usage(NAME, &[]);
}
