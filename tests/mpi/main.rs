//! Ranks that are processes, started by `mpirun`: the example `ranks`, as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../support/launcher.rs"]
mod launcher;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

mod gone;

use launcher::Launcher;

fn program() -> PathBuf {
    programs::folder().join("ranks")
}

/// One at a time: more processes than cores come late to each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ranks with options of their own. One that never ends, which no test should see, has exit code 124.
fn mpirun(ranks: &[Vec<&str>]) -> Command {
    launch(&[], &[], ranks)
}

/// The same where the launcher leaves the others alone when one of them ends.
fn mpirun_leaving_alone(ranks: &[Vec<&str>]) -> Command {
    let (option, before) = Launcher::find().leaving_alone();
    launch(&[option], before, ranks)
}

/// Ranks under `mpirun` with more options, each started by what stands before it.
fn launch(more: &[&str], before: &[&str], ranks: &[Vec<&str>]) -> Command {
    let mut mpirun = Launcher::find().command(&["timeout", "--kill-after", "5", "120"]);
    mpirun.args(more);
    for (rank, options) in ranks.iter().enumerate() {
        mpirun.args(if rank > 0 { &[":"][..] } else { &[] });
        mpirun.args(["-n", "1"]).args(before).arg(program()).args(options);
    }
    mpirun
}

fn under_mpi(ranks: &[&[&str]]) -> Output {
    let ranks: Vec<_> = ranks.iter().map(|options| options.to_vec()).collect();
    let mut mpirun = mpirun(&ranks);
    let _alone = alone();
    mpirun.output().expect("mpirun runs")
}

/// What all ranks print behind their number, which has to be one thing.
#[track_caller]
fn one_line_of_all(ranks: usize, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with("rank ")).collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), ranks, "{text}{errors}");
    let parts: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(rank, line)| {
            let head = format!("rank {rank} of {ranks}: ");
            line.strip_prefix(&head).unwrap_or_else(|| panic!("no {head:?} in {text}"))
        })
        .collect();
    assert!(parts.iter().all(|part| *part == parts[0]), "{text}");
    parts[0].to_owned()
}

fn on_threads(ranks: usize, options: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(["--local", &ranks.to_string()]).args(options);
    one_line_of_all(ranks, &command.output().expect("it runs"))
}

#[test]
fn processes_have_the_bits_of_threads() {
    let Some(_) = support::gpu() else { return };
    let options = ["--steps", "12"];
    let mut found = Vec::new();
    for ranks in [2, 4] {
        let line = one_line_of_all(ranks, &under_mpi(&vec![&options[..]; ranks]));
        assert!(line.starts_with("12 steps, 0 skipped, loss "), "{line}");
        assert_eq!(line, on_threads(ranks, &options), "{ranks} ranks");
        assert_eq!(line, one_line_of_all(ranks, &under_mpi(&vec![&options[..]; ranks])), "again");
        found.push(line);
    }
    assert_ne!(found[0], found[1], "twice the data is another run");
}

/// Gradients of four pieces, of which several are on their way at once.
#[test]
fn pieces_have_the_bits_of_threads() {
    let Some(_) = support::gpu() else { return };
    let options = ["--steps", "3", "--width", "1024", "--layers", "3"];
    for ranks in [2, 3] {
        let line = one_line_of_all(ranks, &under_mpi(&vec![&options[..]; ranks]));
        assert!(line.starts_with("3 steps, 0 skipped, loss "), "{line}");
        assert_eq!(line, on_threads(ranks, &options), "{ranks} ranks");
    }
    let sharded = [&options[..], &["--shard-optimizer"]].concat();
    let line = one_line_of_all(2, &under_mpi(&[&sharded[..]; 2]));
    assert_eq!(line, on_threads(2, &options), "sharded");
}

#[test]
fn a_sharded_optimizer_is_no_other_run() {
    let Some(_) = support::gpu() else { return };
    let [whole, sharded] = [&["--steps", "4"][..], &["--steps", "4", "--shard-optimizer"]];
    for ranks in [2, 4] {
        let line = one_line_of_all(ranks, &under_mpi(&vec![sharded; ranks]));
        assert_eq!(line, on_threads(ranks, whole), "{ranks} ranks");
    }
}

#[test]
fn a_nan_of_one_process_skips_the_step_of_all() {
    let Some(_) = support::gpu() else { return };
    let good = ["--steps", "12"];
    let bad = ["--steps", "12", "--nan-at", "3"];
    let first = one_line_of_all(2, &under_mpi(&[&bad, &good]));
    let second = one_line_of_all(2, &under_mpi(&[&good, &bad]));
    assert!(first.starts_with("12 steps, 1 skipped, loss "), "{first}");
    assert_eq!(first, second, "whoever it was");
    assert_eq!(first, on_threads(2, &bad), "or both");
}

#[test]
fn a_process_with_other_settings_is_named() {
    let Some(_) = support::gpu() else { return };
    let one: &[&str] = &["--steps", "2"];
    for (other, expected) in [
        (["--steps", "2", "--seed", "7"], "rank 1 has the seed 7, rank 0 has 1; start all ranks"),
        (["--steps", "2", "--lr", "0.5"], "rank 1 has the optimizer AdamW { learning_rate: 0.5"),
    ] {
        let output = under_mpi(&[one, &other, one]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{errors}");
        assert!(errors.contains(expected), "{expected:?} is missing in {errors}");
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
