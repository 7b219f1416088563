//! Moments that ranks keep in parts: the same run, saved by all and gone on with on any number.

use crate::programs::Place;
use crate::{arguments, check_same, refuse_on, run_on, succeed_on, support};

/// A step whose microbatches go to four ranks, and a schedule that does not look at the last step.
const RUN: [&str; 20] = [
    "--family",
    "llama",
    "--batch",
    "2",
    "--accumulation",
    "4",
    "--schedule",
    "constant",
    "--warmup",
    "1",
    "--lr",
    "0.01",
    "--evaluate-every",
    "2",
    "--save-every",
    "3",
    "--report-every",
    "2",
    "--sample",
    "0",
];

/// Of the table of a dry run, what moments take.
fn moments(text: &str) -> f64 {
    let is_theirs = |line: &&str| line.contains("moments") && !line.contains("ranks");
    let line = text.lines().find(is_theirs).expect("a line of them");
    let number = line.split_whitespace().find_map(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {line:?}"))
}

#[test]
fn a_sharded_run_is_the_same_and_goes_on_on_any_number_of_ranks() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let run = |out: &str, more: &[&str]| arguments(&place, out, &[&RUN[..], more].concat());
    let resume = |out: &str| {
        ["train", "--resume", &place.path(out), "--steps", "8"].map(str::to_owned).to_vec()
    };
    succeed_on(1, &run("one", &["--steps", "8"]));

    // Half of it on four ranks, told by a file, and the rest on one, where nobody shares.
    place.write("shards.yaml", b"shard-optimizer: true\n");
    let file = place.path("shards.yaml");
    let text = succeed_on(4, &run("four", &["--steps", "4", "--config", &file]));
    let share = "each of 4 ranks takes 1 x 2 x 16 tokens of a step, and keeps the moments of a part of \
                 the weights\n";
    assert!(text.contains(share), "{text}");
    assert!(place.read("four/config.yaml").contains("shard_optimizer: true\n"));
    let alone = run_on(1, &resume("four"));
    let errors = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{errors}");
    assert!(errors.contains("--shard-optimizer does nothing on one rank"), "{errors}");
    check_same(&place, "four", "one");

    // And the other way.
    succeed_on(1, &run("back", &["--steps", "4"]));
    let resumed = [resume("back"), vec!["--shard-optimizer".to_owned()]].concat();
    succeed_on(4, &resumed);
    check_same(&place, "back", "one");
}

#[test]
fn a_dry_run_shows_the_moments_of_a_rank() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let dry = |more: &[&str]| {
        let all = [&RUN[..], &["--dry-run", "--width", "64"], more].concat();
        succeed_on(2, &arguments(&place, "none", &all))
    };
    let (whole, half) = (moments(&dry(&[])), moments(&dry(&["--shard-optimizer"])));
    // Borders are those of rows.
    assert!(half < 0.7 * whole && half > 0.3 * whole, "{half} of {whole}");

    let both = arguments(&place, "none", &["--shard-optimizer", "--diloco-steps", "4"]);
    refuse_on(2, &both, 3, &["--shard-optimizer with --diloco-steps"]);
}
