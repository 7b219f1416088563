//! Processes that are killed, stopped or slow: the others end with an error that names them, and the run
//! goes on from its last save on fewer.

use std::path::Path;
use std::process::{Command, Output};

use evenkeel::train::Checkpoint;

use crate::launcher::Launcher;
use crate::{alone, mpirun, mpirun_leaving_alone, on_threads, one_line_of_all, support, under_mpi};

/// What each rank ends with when it has waited in vain.
const NAMED: &str = "did not send to rank ";

/// Ranks with these options, of which one has more.
fn with_one<'a>(
    ranks: usize,
    options: &[&'a str],
    one: usize,
    more: &[&'a str],
) -> Vec<Vec<&'a str>> {
    let of_rank = |rank| [options, if rank == one { more } else { &[] }].concat();
    (0..ranks).map(of_rank).collect()
}

fn output(ranks: &[Vec<&str>]) -> Output {
    output_of(mpirun(ranks))
}

fn output_of(mut mpirun: Command) -> Output {
    let _alone = alone();
    mpirun.output().expect("mpirun runs")
}

#[track_caller]
fn errors_of_ended(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{errors}");
    assert_ne!(output.status.code(), Some(124), "some never ended: {errors}");
    assert_printed_nothing(output);
    errors
}

/// What MPICH's launcher says of an end is no line of a rank.
#[track_caller]
fn assert_printed_nothing(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.lines().any(|line| line.starts_with("rank ")), "{text}");
}

/// Steps of a file that is whole.
fn saved_steps(path: &Path) -> u64 {
    let bytes = std::fs::read(path).expect("a save");
    Checkpoint::from_bytes(&bytes).expect("a whole save").steps()
}

/// From the save of a run of so many ranks to its end on one, which adds microbatches in the order of
/// ranks: that is the run that never stopped.
#[track_caller]
fn goes_on_alone(file: &str, ranks: usize) {
    let microbatches = ranks.to_string();
    let resumed = ["--steps", "8", "--resume", file, "--microbatches", &microbatches];
    let resumed = one_line_of_all(1, &under_mpi(&[&resumed]));
    assert_eq!(resumed, on_threads(ranks, &["--steps", "8"]), "{ranks} ranks, on one");
}

/// The same for 4 ranks on 2, which add in another order: as from the save of a run that ended there.
#[track_caller]
fn goes_on_with_two(file: &str, steps: u64) {
    let options = ["--steps", "8", "--microbatches", "2", "--resume"];
    let resumed = [&options[..], &[file]].concat();
    let resumed = one_line_of_all(2, &under_mpi(&[&resumed, &resumed]));
    let clean = format!("{file}.clean");
    on_threads(4, &["--steps", &steps.to_string(), "--save", &clean]);
    let clean = [&options[..], &[clean.as_str()]].concat();
    assert_eq!(resumed, on_threads(2, &clean), "4 ranks, on 2");
}

#[test]
fn a_killed_process_leaves_a_save_that_fewer_go_on_from() {
    let Some(_) = support::gpu() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (ranks, killed) in [(2, 1), (4, 2)] {
        let path = folder.path().join(ranks.to_string());
        let file = path.to_str().expect("UTF-8");
        let options = ["--steps", "8", "--save", file];
        let output = output(&with_one(ranks, &options, killed, &["--kill-at", "5"]));
        let errors = errors_of_ended(&output);
        // The launcher sees it before any limit.
        let told = errors + &String::from_utf8_lossy(&output.stdout);
        for part in Launcher::find().tells_of_killed(killed) {
            assert!(told.contains(&part), "{part:?} is missing in {told}");
        }
        // All had what step 5 is made of; its save may have been under way.
        let steps = saved_steps(&path);
        assert!((4..=5).contains(&steps), "{steps} steps were saved");
        goes_on_alone(file, ranks);
        if ranks == 4 {
            goes_on_with_two(file, steps);
        }
    }
}

#[test]
fn a_stopped_process_is_named_and_fewer_go_on() {
    let Some(_) = support::gpu() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("save");
    let file = path.to_str().expect("UTF-8");
    let options = ["--steps", "8", "--save", file, "--time-limit", "5"];
    let errors = errors_of_ended(&output(&with_one(4, &options, 2, &["--stop-at", "5"])));
    // The first that ends ends the others, by way of the launcher.
    let named = format!("error: rank 2 {NAMED}");
    assert!(errors.contains(&named), "{named:?} is missing in {errors}");
    assert!(errors.contains("within 5 s: it died, hangs or takes longer than that"), "{errors}");
    assert_eq!(saved_steps(&path), 5);
    goes_on_alone(file, 4);
}

/// Where the launcher leaves the others alone, each ends by itself, and so does the one that comes late.
#[test]
fn each_process_names_the_one_that_is_gone() {
    let Some(_) = support::gpu() else { return };
    let (kill, stop) = (["--kill-at", "5"], ["--stop-at", "5", "--stop-for", "7"]);
    for (ranks, gone, fault, told) in [(2, 0, &kill[..], 1), (4, 2, &kill, 3), (4, 1, &stop, 4)] {
        let options = ["--steps", "8", "--time-limit", "5"];
        let ranks = with_one(ranks, &options, gone, fault);
        let output = output_of(mpirun_leaving_alone(&ranks));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(124), "some never ended: {errors}");
        assert_printed_nothing(&output);
        let named = format!("error: rank {gone} {NAMED}");
        assert_eq!(errors.matches(&named).count(), told, "{errors}");
    }
}

/// Gradients of four pieces, of which two are on their way when a process is killed.
#[test]
fn each_process_names_the_one_that_is_killed_between_pieces() {
    let Some(_) = support::gpu() else { return };
    let large = ["--steps", "3", "--width", "1024", "--layers", "3", "--time-limit", "5"];
    for (ranks, gone) in [(2, 1), (4, 2)] {
        let ranks = with_one(ranks, &large, gone, &["--kill-in", "1"]);
        let output = output_of(mpirun_leaving_alone(&ranks));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(124), "some never ended: {errors}");
        assert_printed_nothing(&output);
        // By what it owed or by what it did not take, whichever is missed first.
        let [owed, taken] =
            [NAMED, "did not take what"].map(|how| format!("error: rank {gone} {how}"));
        let told = errors.matches(&owed).count() + errors.matches(&taken).count();
        assert_eq!(told, ranks.len() - 1, "{errors}");
    }
}

#[test]
fn a_slow_process_changes_no_bit() {
    let Some(_) = support::gpu() else { return };
    let options = ["--steps", "8", "--time-limit", "30"];
    let expected = on_threads(2, &options);
    for slow in [0, 1] {
        let slow = output(&with_one(2, &options, slow, &["--sleep-at", "3"]));
        assert_eq!(one_line_of_all(2, &slow), expected);
    }
}

/// Long before the limit of 10 minutes.
#[test]
fn a_process_that_ends_early_ends_all() {
    let Some(_) = support::gpu() else { return };
    for ranks in [2, 3] {
        let none = ["--resume", "/no/such/file"];
        let errors = errors_of_ended(&output(&with_one(ranks, &["--steps", "2"], 0, &none)));
        assert!(errors.contains("error: /no/such/file: "), "{errors}");
    }
}
