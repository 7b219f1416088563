//! `evenkeel train`, run as a user runs it: data of all kinds, vocabularies, configurations, saves,
//! what goes on and what is refused.

use std::fs;
use std::path::Path;
use std::process::Output;

use programs::{Place, SMALL, borrowed, check_failure, lines, loss};

mod base;
mod configuration;
mod data;
mod device_loss;
mod loader;
#[path = "../support/programs.rs"]
mod programs;
mod refusals;
mod results;
/// Signals and kills are those of Unix.
#[cfg(unix)]
mod resume;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_model.rs"]
mod tiny_model;

const TRAIN: &str = "evenkeel train";

/// Arguments of a small run over `data` in the folder `out` of the place.
fn arguments(place: &Place, out: &str, data: &[&str], more: &[&str]) -> Vec<String> {
    let data = data.iter().map(|name| place.path(name));
    let own = ["--out".to_owned(), place.path(out), "--data".to_owned()].into_iter().chain(data);
    own.chain(SMALL.iter().chain(more).map(|argument| (*argument).to_owned())).collect()
}

fn run(arguments: &[String]) -> Output {
    programs::run(TRAIN, &borrowed(arguments))
}

#[track_caller]
fn succeed(arguments: &[String]) -> String {
    programs::succeed(TRAIN, &borrowed(arguments))
}

/// Losses of a run in a folder of the place.
fn losses(place: &Place, out: &str) -> Vec<f64> {
    lines(&place.read(&format!("{out}/metrics.jsonl"))).iter().map(loss).collect()
}

/// What a run says of itself, step by step, without the one number that a clock gives.
fn records(place: &Place, out: &str) -> Vec<serde_json::Value> {
    let mut records = lines(&place.read(&format!("{out}/metrics.jsonl")));
    for record in &mut records {
        let removed = record.as_object_mut().and_then(|fields| fields.remove("tokens_per_second"));
        assert!(removed.is_some(), "{record}");
    }
    records
}

fn is_there(place: &Place, name: &str) -> bool {
    Path::new(&place.path(name)).exists()
}

/// The steps of the saves that are kept.
fn kept(place: &Place, out: &str) -> Vec<String> {
    let folder = fs::read_dir(place.path(out) + "/checkpoints").expect("a folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A run that must fail with this exit code and one line that holds all of `parts`.
#[track_caller]
fn refuse(arguments: &[String], code: i32, parts: &[&str]) {
    check_failure(&run(arguments), code, &borrowed(arguments), parts);
}
