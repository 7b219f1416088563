//! `evenkeel train` and `lora` under `mpirun`, as a user runs them: the run of one process on several, what goes on
//! elsewhere, and what is wrong on one of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use launcher::Launcher;
use programs::{Place, SMALL, lines, loss};
use safetensors::SafeTensors;

mod diloco;
#[path = "../support/launcher.rs"]
mod launcher;
mod lora;
#[path = "../support/programs.rs"]
mod programs;
mod refusals;
mod same_run;
mod sharded;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_model.rs"]
mod tiny_model;
/// Signals and kills are those of Unix.
#[cfg(unix)]
mod unfinished;

/// The program on so many ranks, not started yet. What follows are its arguments.
fn mpirun(ranks: usize) -> Command {
    mpirun_of(ranks, &[])
}

/// The same, started by another program.
fn mpirun_of(ranks: usize, before: &[&str]) -> Command {
    let mut mpirun = Launcher::find().command(&[]);
    mpirun.args(["-n", &ranks.to_string()]).args(before).arg(env!("CARGO_BIN_EXE_evenkeel"));
    mpirun
}

/// Arguments of a small run in the folder `out` of the place.
fn arguments(place: &Place, out: &str, more: &[&str]) -> Vec<String> {
    let (out, data) = (place.path(out), place.path("text.txt"));
    let own = ["train", "--out", &out, "--data", &data].into_iter();
    let small = SMALL.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten().copied();
    own.chain(small).chain(more.iter().copied()).map(str::to_owned).collect()
}

/// On one rank there is no `mpirun`.
fn run_on(ranks: usize, arguments: &[String]) -> Output {
    let mut command = match ranks {
        1 => Command::new(env!("CARGO_BIN_EXE_evenkeel")),
        _ => mpirun(ranks),
    };
    // Mesa complains on the error output where this is not set.
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or(std::env::temp_dir().into());
    command.env("XDG_RUNTIME_DIR", runtime);
    command.args(arguments).output().expect("mpirun runs")
}

/// Standard output of a run that must succeed.
#[track_caller]
fn succeed_on(ranks: usize, arguments: &[String]) -> String {
    let output = run_on(ranks, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} on {ranks} ranks:\n{text}{errors}");
    text
}

/// A run on several ranks that must end with this exit code and one error, which has all of `parts`.
#[track_caller]
fn refuse_on(ranks: usize, arguments: &[String], code: i32, parts: &[&str]) {
    check_refusal(&run_on(ranks, arguments), code, parts);
}

#[track_caller]
fn check_refusal(output: &Output, code: i32, parts: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    let told: Vec<_> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(told.len(), 1, "{errors}");
    for part in parts {
        assert!(told[0].contains(part), "{part:?} is missing in {errors}");
    }
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

fn losses(place: &Place, out: &str) -> Vec<f64> {
    records(place, out).iter().map(loss).collect()
}

/// Validation losses, where there are some.
fn validated(place: &Place, out: &str) -> Vec<f64> {
    let loss = |record: &serde_json::Value| record.get("validation_loss")?.as_f64();
    records(place, out).iter().filter_map(loss).collect()
}

/// All tensors of a file are those of another, bit by bit.
#[track_caller]
fn check_tensors(place: &Place, [one, other]: [&str; 2], name: &str) {
    let [found, wanted] = [one, other]
        .map(|out| fs::read(place.path(&format!("{out}/{name}"))).expect("a file of tensors"));
    let [found, wanted] =
        [&found, &wanted].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let mut names = found.names();
    names.sort_unstable();
    assert!(!names.is_empty() && found.len() == wanted.len(), "{name}");
    for tensor in names {
        let [found, wanted] = [&found, &wanted].map(|file| file.tensor(tensor).expect("it"));
        assert_eq!(found, wanted, "{name}: {tensor}");
    }
}

/// Records, saves and models of a run are those of another, bit by bit: as they are with one
/// microbatch for each rank where every weight has one use, so not with a head that is the embedding.
#[track_caller]
fn check_same(place: &Place, one: &str, other: &str) {
    assert_eq!(records(place, one), records(place, other));
    for name in ["checkpoint.safetensors", "best.safetensors", "model/model.safetensors"] {
        check_tensors(place, [one, other], name);
    }
}

fn is_there(place: &Place, name: &str) -> bool {
    Path::new(&place.path(name)).exists()
}

/// The files of a folder.
fn names_in(place: &Place, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(place.path(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
