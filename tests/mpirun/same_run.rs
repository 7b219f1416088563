//! The settings say the whole of a step, and the run is the same on any number of ranks.

use crate::launcher::Launcher;
use crate::programs::Place;
use crate::{
    arguments, check_same, check_tensors, losses, mpirun_of, names_in, succeed_on, support,
    validated,
};

/// Nearly all that can be drawn or kept, in a dozen steps.
const RUN: [&str; 22] = [
    "--family",
    "llama",
    "--steps",
    "12",
    "--lr",
    "0.01",
    "--dropout",
    "0.1",
    "--ema",
    "0.9",
    "--tokenizer",
    "bpe:270",
    "--report-every",
    "3",
    "--evaluate-every",
    "4",
    "--save-every",
    "5",
    "--sample",
    "5",
    "--prompt",
    "the",
];

/// Numbers that differ by rounding alone.
#[track_caller]
fn check_near(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        // Sums over some hundred terms in another order, carried through a dozen steps.
        assert!((found - wanted).abs() <= 1e-4 * wanted.abs(), "{found} {wanted}");
    }
}

#[test]
fn a_run_is_the_same_on_four_ranks_as_on_one() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = [&RUN[..], &["--batch", "2", "--accumulation", "4"]].concat();
    let alone = succeed_on(1, &arguments(&place, "one", &more));
    let text = succeed_on(4, &arguments(&place, "four", &more));
    check_same(&place, "four", "one");
    assert_eq!(place.read("four/sample.txt"), place.read("one/sample.txt"));
    assert!(text.contains("ranks    4 on 4 x "), "{text}");
    let share = "each of 4 ranks takes 1 x 2 x 16 tokens of a step\n";
    assert!(text.contains(share) && !alone.contains("ranks"), "{text}{alone}");
    // The files are those of one process, and a log of each other rank.
    let mut files = names_in(&place, "four");
    let logs: Vec<_> = files.extract_if(.., |name| name.starts_with("log.")).collect();
    assert_eq!(logs, ["log.rank-1.txt", "log.rank-2.txt", "log.rank-3.txt"]);
    assert_eq!(files, names_in(&place, "one"));
    let log = place.read("four/log.rank-3.txt");
    for part in ["rank 3 of 4: process ", "data.tokens\n", "step 12: loss ", "after 12 steps"] {
        assert!(log.contains(part), "{part:?} is missing in {log}");
    }

    // Two microbatches on each of two ranks are added in another order.
    succeed_on(2, &arguments(&place, "two", &more));
    check_near(&losses(&place, "two"), &losses(&place, "one"));
    check_near(&validated(&place, "two"), &validated(&place, "one"));
}

#[test]
fn microbatches_are_cut_where_there_are_not_enough() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "6", "--evaluate-every", "3", "--sample", "0", "--lr", "0.01"];
    let more = [&more[..], &["--family", "llama"]].concat();
    let text = succeed_on(2, &arguments(&place, "cut", &more));
    let share = "each of 2 ranks takes 1 x 2 x 16 tokens of a step; microbatches are cut, so that \
                 bits are others than on fewer ranks";
    assert!(text.contains(share), "{text}");
    let config = place.read("cut/config.yaml");
    assert!(config.contains("batch: 4\n") && config.contains("accumulation: 1\n"), "{config}");
    // Step by step that of as many microbatches as there are ranks.
    let halves = [&more[..], &["--batch", "2", "--accumulation", "2"]].concat();
    succeed_on(1, &arguments(&place, "halves", &halves));
    assert_eq!(losses(&place, "cut"), losses(&place, "halves"));
    check_tensors(&place, ["cut", "halves"], "checkpoint.safetensors");
    // And what is measured is that of the settings.
    succeed_on(1, &arguments(&place, "whole", &more));
    check_near(&losses(&place, "cut"), &losses(&place, "whole"));
    check_near(&validated(&place, "cut"), &validated(&place, "whole"));
}

#[test]
fn what_is_measured_for_a_run_is_the_same_on_all_ranks() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    // Whatever number of steps a second has room for.
    let more = ["--budget", "0.3s", "--json", "--sample", "0", "--accumulation", "2"];
    let text = succeed_on(2, &arguments(&place, "out", &more));
    let result: serde_json::Value = serde_json::from_str(&text).expect("one object");
    let steps = result["steps"].as_u64().expect("a number");
    assert!(steps > 0 && result["of_steps"] == steps, "{text}");
    assert_eq!(losses(&place, "out").len() as u64, steps);
    assert!(place.read("out/log.rank-1.txt").contains(&format!("ended after {steps} steps")));
}

#[test]
fn ranks_of_a_launcher_that_says_less_take_part() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let mut command = mpirun_of(2, Launcher::find().hiding_itself());
    command.args(arguments(&place, "out", &["--steps", "2", "--accumulation", "2"]));
    let output = command.output().expect("mpirun runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("each of 2 ranks takes 1 x 4 x 16 tokens"), "{text}");
}
