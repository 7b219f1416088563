//! What is wrong, and ends all ranks with one error and one exit code.

use std::process::Command;

use crate::launcher::Launcher;
use crate::programs::Place;
use crate::{
    arguments, check_refusal, is_there, losses, mpirun, refuse_on, run_on, succeed_on, support,
};

#[test]
fn bad_input_is_told_once() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    place.write("short.txt", b"short");
    let refuse = |more: &[&str], parts: &[&str]| {
        refuse_on(3, &arguments(&place, "out", more), 3, parts);
    };
    refuse(&["--steps", "0"], &["--steps is 0"]);
    refuse(
        &["--batch", "4", "--accumulation", "2"],
        &[
            "--accumulation 2 times --batch 4",
            "3 ranks",
            "--accumulation 3 or --batch 3",
            "2 ranks",
        ],
    );
    let profile = place.path("trace.json");
    let more = ["--accumulation", "3", "--profile", &profile];
    refuse(&more, &["--profile on several ranks"]);
    assert!(!is_there(&place, "out/checkpoint.safetensors"));
    // Found by rank 0 while the others wait for the tokens.
    let data = place.path("short.txt");
    let own = arguments(&place, "out", &["--accumulation", "3"]);
    let own: Vec<_> =
        own.into_iter().map(|a| if a.ends_with("text.txt") { data.clone() } else { a }).collect();
    refuse_on(3, &own, 3, &["short.txt", "5 tokens"]);
}

#[test]
fn other_arguments_on_a_rank_are_found() {
    let place = Place::new();
    let [one, other] = ["3", "4"].map(|steps| arguments(&place, "out", &["--steps", steps]));
    let mut both = mpirun(1);
    both.args(&one).args([":", "-n", "1", env!("CARGO_BIN_EXE_evenkeel")]).args(&other);
    let output = both.output().expect("mpirun runs");
    check_refusal(&output, 3, &["rank 1 has the command line", "\"4\"", "start all ranks alike"]);
    assert!(!is_there(&place, "out"));
}

/// Each process would be a run of its own.
#[test]
fn a_launcher_of_another_mpi_is_told() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.envs(Launcher::find().of_another()).args(arguments(&place, "out", &["--steps", "2"]));
    let parts = ["started 2 ranks, of which MPI finds 1", "that it was built with", "MPICC"];
    check_refusal(&command.output().expect("it runs"), 3, &parts);
    assert!(!is_there(&place, "out"));
}

#[test]
fn a_lost_device_ends_all_and_a_run_that_gives_up_does() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "9", "--save-every", "2", "--sample", "0"];
    // Rank 0 is who hears of the fault.
    let lost = [&more[..], &["--lose-device-at", "5"]].concat();
    refuse_on(2, &arguments(&place, "out", &lost), 6, &["lost and not regained", "--resume"]);
    let out = ["train".to_owned(), "--resume".to_owned(), place.path("out")];
    let text = succeed_on(1, &out);
    assert!(text.contains("resumed  at step 4 of 9"), "{text}");
    assert_eq!(losses(&place, "out").len(), 9);

    let more = ["--steps", "400", "--lr", "1e30", "--clip", "0", "--weight-decay", "0"];
    let more = [&more[..], &["--warmup", "1", "--sample", "0"]].concat();
    refuse_on(2, &arguments(&place, "hopeless", &more), 5, &["training gave up"]);
}

#[test]
fn other_commands_are_those_of_rank_0() {
    let output = run_on(2, &["completions".to_owned(), "bash".to_owned()]);
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let alone = run_on(1, &["completions".to_owned(), "bash".to_owned()]);
    assert_eq!(text, String::from_utf8_lossy(&alone.stdout));
    assert_eq!(errors.matches("rank 0 alone does this").count(), 1, "{errors}");

    refuse_on(2, &["trane".to_owned()], 2, &["trane"]);
}

#[test]
fn a_dry_run_says_the_part_of_each_rank() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let text = succeed_on(2, &arguments(&place, "out", &["--dry-run", "--accumulation", "6"]));
    for part in
        ["# each of 2 ranks takes 3 x 4 x 16 tokens of a step\n", "gradients for other ranks"]
    {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
    }
    assert!(!is_there(&place, "out"));
}
