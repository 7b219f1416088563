//! Ranks of the program that take steps by themselves and meet once in some.

use std::fs;
use std::process::Stdio;

use evenkeel::train::ranks::DiLoCoCheckpoint;
use safetensors::SafeTensors;

use crate::programs::Place;
use crate::{
    arguments, check_tensors, losses, mpirun, records, refuse_on, run_on, succeed_on, support,
};

/// Rounds of four steps, whose last one is shorter.
const RUN: [&str; 26] = [
    "--family",
    "llama",
    "--batch",
    "2",
    "--accumulation",
    "2",
    "--schedule",
    "constant",
    "--warmup",
    "1",
    "--lr",
    "0.01",
    "--evaluate-every",
    "12",
    "--save-every",
    "6",
    "--report-every",
    "3",
    "--sample",
    "0",
    "--diloco-steps",
    "4",
    "--diloco-format",
    "int8",
    "--diloco-momentum",
    "0.5",
];

fn run(place: &Place, out: &str, steps: &str, more: &[&str]) -> Vec<String> {
    arguments(place, out, &[&RUN[..], &["--steps", steps], more].concat())
}

fn resume(place: &Place, out: &str, steps: &str) -> Vec<String> {
    ["train", "--resume", &place.path(out), "--steps", steps].map(str::to_owned).to_vec()
}

fn saved(place: &Place, out: &str, rank: usize) -> DiLoCoCheckpoint {
    let path = place.path(&format!("{out}/diloco.rank-{rank}.safetensors"));
    DiLoCoCheckpoint::from_bytes(&fs::read(path).expect("a save")).expect("of DiLoCo")
}

/// What is recorded of rounds, by the number of its step.
fn rounds(place: &Place, out: &str) -> Vec<(u64, String)> {
    let of = |record: &serde_json::Value| {
        let step = record["step"].as_u64().expect("a number");
        let events = record["events"].as_array().cloned().unwrap_or_default();
        let texts = events.into_iter().filter_map(|event| event.as_str().map(str::to_owned));
        texts.filter(|text| text.starts_with("round ")).map(|text| (step, text)).collect::<Vec<_>>()
    };
    records(place, out).iter().flat_map(of).collect()
}

/// Saves of all ranks, models and records are those of another run, bit by bit.
#[track_caller]
fn check_same(place: &Place, one: &str, other: &str) {
    assert_eq!(records(place, one), records(place, other));
    let own = ["diloco.rank-0.safetensors", "diloco.rank-1.safetensors"];
    for name in ["checkpoint.safetensors", "model/model.safetensors"].into_iter().chain(own) {
        check_tensors(place, [one, other], name);
    }
}

#[test]
fn ranks_that_meet_rarely_learn_the_same_weights() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let text = succeed_on(2, &run(&place, "out", "22", &[]));
    for part in [
        "share    each of 2 ranks takes 1 x 2 x 16 tokens of a step by itself, and meets the others \
         every 4 steps\n",
        "diloco   a round every 4 steps: learning rate 0.7, momentum 0.5, differences in int8; ",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let losses = losses(&place, "out");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[18..]) < 0.95 * mean(&losses[..4]), "{losses:?}");

    let rounds = rounds(&place, "out");
    let steps: Vec<_> = rounds.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [3, 7, 11, 15, 19, 21], "{rounds:?}");
    let log = place.read("out/log.rank-1.txt");
    for (_, told) in &rounds {
        assert!(told.contains("ranks moved by ") && !told.contains("left out"), "{told}");
        assert!(log.contains(&format!("{told}\n")), "{told:?} is missing in {log}");
    }

    // What each rank took by itself is not taken again.
    let why = ["why", &place.path("out"), "--step", "5"].map(str::to_owned);
    crate::check_refusal(
        &run_on(1, &why),
        3,
        &["taking steps again that ranks took by themselves"],
    );

    // Both have come to the same weights, and have moments of their own.
    let [first, second] = [0, 1].map(|rank| saved(&place, "out", rank).trainer().to_bytes());
    let [first, second] =
        [&first, &second].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let differ = |name: &&str| {
        let [first, second] =
            [&first, &second].map(|file| file.tensor(name).expect("the same tensors"));
        first != second
    };
    let of = |kind: &str| {
        let names = first.names().into_iter().filter(|name| name.starts_with(kind));
        names.collect::<Vec<_>>()
    };
    let (weights, moments) = (of("blocks."), of("evenkeel/moment/"));
    assert!(!weights.is_empty() && !weights.iter().any(differ), "{weights:?}");
    assert!(moments.iter().any(differ), "{moments:?}");
}

#[cfg(unix)]
#[test]
fn a_run_with_rounds_goes_on_bit_by_bit() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    succeed_on(2, &run(&place, "whole", "40", &[]));

    // Asked to stop wherever it is: it does where ranks meet, in the middle of a round.
    let mut command = mpirun(2);
    command.args(run(&place, "out", "40", &[])).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("started");
    let path = place.path("out/diloco.rank-1.safetensors");
    crate::unfinished::wait_for(&path, &mut child);
    crate::unfinished::signal(&place, 1, "-INT");
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    let steps = saved(&place, "out", 0).trainer().steps();
    assert!((8..40).contains(&steps) && steps % 4 == 3, "{steps}");
    assert_eq!(saved(&place, "out", 1).trainer().steps(), steps);

    succeed_on(2, &resume(&place, "out", "40"));
    check_same(&place, "out", "whole");

    // On one rank what the other one had is gone, and that is said.
    let alone = run_on(1, &resume(&place, "out", "46"));
    let errors = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{errors}");
    assert!(errors.contains("the run had 2 ranks: moments of rank 1 are gone"), "{errors}");
    let told = rounds(&place, "out");
    assert_eq!(told.last().map(|(step, _)| *step), Some(45), "{told:?}");
    // And another comes back, with those of rank 0.
    succeed_on(2, &resume(&place, "out", "48"));
    assert_eq!(losses(&place, "out").len(), 48);
}

#[test]
fn ranks_that_are_left_out_are_told() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let own = run(&place, "out", "8", &["--clip", "0", "--weight-decay", "0"]);
    // Each rank goes further than f16 has numbers for.
    let other = |argument: String| match argument.as_str() {
        "0.01" => "1e6".to_owned(),
        "int8" => "f16".to_owned(),
        _ => argument,
    };
    let own: Vec<_> = own.into_iter().map(other).collect();
    let output = run_on(2, &own);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told = rounds(&place, "out");
    assert_eq!(told.len(), 2, "{told:?}");
    for (number, (_, text)) in told.iter().enumerate() {
        for rank in 0..2 {
            let part = format!("rank {rank} was left out: its ");
            assert!(text.contains(&part), "{part:?} is missing in {text}");
            let said = format!("round {}: {part}", number + 1);
            assert_eq!(errors.matches(&said).count(), 1, "{said:?} in {errors}");
        }
    }

    for (more, part) in [
        (&["--diloco-steps", "0"][..], "--diloco-steps is 0"),
        (&["--diloco-steps", "4", "--diloco-momentum", "1"], "--diloco-momentum is 1"),
        (&["--diloco-lr", "0.5"], "give --diloco-steps"),
        (&["--diloco-steps", "4", "--diloco-lr", "0"], "--diloco-lr is 0"),
    ] {
        refuse_on(2, &arguments(&place, "none", more), 3, &[part]);
    }
}
