//! What a run owes its user whatever happens to it: closed pipes, full disks, signals, kills, and
//! records that are whole. `evenkeel train` stands for all programs that use `evenkeel::run`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use evenkeel::train::Checkpoint;
use programs::{Place, borrowed, check_failure, lines};
use safetensors::SafeTensors;
use serde_json::Value;

/// Signals and kills are those of Unix.
#[cfg(unix)]
mod ends;
mod files;
mod outputs;
#[path = "../support/programs.rs"]
mod programs;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod tuning;

const TRAIN: &str = "evenkeel train";

fn command(arguments: &[String]) -> Command {
    programs::command(TRAIN, arguments)
}

fn run(arguments: &[String]) -> Output {
    programs::run(TRAIN, &borrowed(arguments))
}

#[track_caller]
fn succeed(arguments: &[String]) -> String {
    programs::succeed(TRAIN, &borrowed(arguments))
}

/// A run that must have failed with exit code 3 and one line that holds all of `parts`.
#[track_caller]
fn check_refusal(output: &Output, arguments: &[String], parts: &[&str]) {
    check_failure(output, 3, &borrowed(arguments), parts);
}

/// Such a run over the text of the place, in its folder `out`.
#[track_caller]
fn refuse(place: &Place, more: &[&str], parts: &[&str]) {
    let arguments = place.arguments(None, more);
    check_refusal(&run(&arguments), &arguments, parts);
}

/// Records without the one number that a clock gives.
fn records(metrics: &str) -> Vec<Value> {
    let mut records = lines(metrics);
    for record in &mut records {
        let removed = record.as_object_mut().and_then(|fields| fields.remove("tokens_per_second"));
        assert!(removed.is_some(), "{record}");
    }
    records
}

/// A table without the column that a clock gives.
fn rows(table: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(table.as_bytes());
    let rows = reader.records().map(|row| row.expect("a row"));
    let mut rows: Vec<Vec<String>> =
        rows.map(|row| row.iter().map(str::to_owned).collect()).collect();
    let clock = rows[0].iter().position(|name| name == "tokens_per_second").expect("a column");
    rows.iter_mut().for_each(|row| drop(row.remove(clock)));
    rows
}

fn saved_steps(place: &Place, out: &str) -> u64 {
    let bytes = fs::read(place.path(out) + "/checkpoint.safetensors").expect("a save");
    Checkpoint::from_bytes(&bytes).expect("a checkpoint").steps()
}

/// All files of a run are whole, and as those of another, bit by bit.
#[track_caller]
fn check_same(place: &Place, out: &str, expected: &str) {
    let file = |folder: &str, name: &str| place.read(&format!("{folder}/{name}"));
    let of = |folder| records(&file(folder, "metrics.jsonl"));
    let (found, wanted) = (of(out), of(expected));
    assert_eq!(found.len(), wanted.len(), "records");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(rows(&file(out, "run.csv")), rows(&file(expected, "run.csv")));
    assert!(file(out, "training.svg").trim_end().ends_with("</svg>"));
    let bytes =
        |folder: &str| fs::read(place.path(folder) + "/checkpoint.safetensors").expect("weights");
    let (found, wanted) = (bytes(out), bytes(expected));
    let [found, wanted] =
        [&found, &wanted].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let mut names = found.names();
    names.sort_unstable();
    assert!(names.len() > 20 && names.contains(&"evenkeel/state"), "{names:?}");
    assert_eq!(found.len(), wanted.len());
    for name in names {
        let [found, wanted] = [&found, &wanted].map(|file| file.tensor(name).expect("a tensor"));
        assert_eq!(found, wanted, "{name}");
    }
    let entries = fs::read_dir(place.path(out)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("new")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Arguments of a run in a folder of the place, with a table in it too.
fn arguments(place: &Place, out: &str, more: &[&str]) -> Vec<String> {
    let table = place.path(out) + "/run.csv";
    let folder = place.path(out);
    let own = ["--out", &folder, "--csv", &table, "--quiet", "--sample", "0"];
    place.arguments(None, &[&own, more].concat())
}

/// Arguments with which such a run goes on.
fn resumed(place: &Place, out: &str, more: &[&str]) -> Vec<String> {
    let out = place.path(out);
    let all = [&["--resume", &*out, "--quiet"], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

/// Waits until a run has saved a step other than the first.
fn wait_for_save(place: &Place, out: &str, child: &mut Child) {
    let begun = Instant::now();
    let previous = place.path(out) + "/previous.safetensors";
    while !Path::new(&previous).exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run has ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing was saved");
        sleep(Duration::from_millis(5));
    }
}
