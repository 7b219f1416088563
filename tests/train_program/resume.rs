//! Runs that go on: after signals and kills, twice, with other settings; and what is kept of them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;

use crate::programs::{Place, borrowed, command};
use crate::{TRAIN, arguments, is_there, kept, programs, records, refuse, succeed, support};

const STEPS: [&str; 10] = [
    "--steps",
    "60",
    "--save-every",
    "4",
    "--report-every",
    "5",
    "--evaluate-every",
    "20",
    "--sample",
    "0",
];

fn start(arguments: &[String]) -> Child {
    let mut command = command(TRAIN, &borrowed(arguments));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

/// Waits until a run has a file.
fn wait_for(path: &str, child: &mut Child) {
    let begun = Instant::now();
    while !Path::new(path).exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run has ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing was saved");
        sleep(Duration::from_millis(2));
    }
}

fn resume(place: &Place, out: &str, more: &[&str]) -> String {
    programs::succeed(TRAIN, &[&["--resume", &place.path(out)], more].concat())
}

/// Records, saves and models are those of another run, bit by bit.
#[track_caller]
fn check_same(place: &Place, out: &str, expected: &str) {
    assert_eq!(records(place, out), records(place, expected));
    for name in ["checkpoint.safetensors", "best.safetensors", "model/model.safetensors"] {
        let [found, wanted] = [out, expected]
            .map(|out| fs::read(place.path(&format!("{out}/{name}"))).expect("a file"));
        let [found, wanted] =
            [&found, &wanted].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
        let mut names = found.names();
        names.sort_unstable();
        assert_eq!(found.len(), wanted.len());
        for tensor in names {
            let [found, wanted] = [&found, &wanted].map(|file| file.tensor(tensor).expect("it"));
            assert_eq!(found, wanted, "{name}: {tensor}");
        }
    }
    assert_eq!(kept(place, out), kept(place, expected));
}

#[test]
fn a_run_goes_on_bit_by_bit_after_signals_and_kills() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more =
        [&STEPS[..], &["--tokenizer", "bpe:270", "--dropout", "0.1", "--keep", "3"]].concat();
    succeed(&arguments(&place, "whole", &["text.txt"], &more));

    // Ctrl-C, then a kill, then the end.
    let mut child = start(&arguments(&place, "out", &["text.txt"], &more));
    wait_for(&place.path("out/checkpoints/step-00000004.safetensors"), &mut child);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(!is_there(&place, "out/model") && records(&place, "out").len() < 60);

    let mut child = start(&["--resume".to_owned(), place.path("out")]);
    wait_for(&place.path("out/checkpoints/step-00000032.safetensors"), &mut child);
    child.kill().expect("killed");
    child.wait().expect("an end");

    let text = resume(&place, "out", &[]);
    assert!(text.contains("resumed  at step ") && !text.contains("changed "), "{text}");
    check_same(&place, "out", "whole");
    assert_eq!(kept(&place, "out").last().map(String::as_str), Some("step-00000060.safetensors"));
    assert_eq!(kept(&place, "out").len(), 3);
    // A run that is over has nothing left to do.
    resume(&place, "out", &["--quiet"]);
    check_same(&place, "out", "whole");
}

/// Tokens are whole or not there.
#[test]
fn tokenizing_can_be_interrupted() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let text = place.read("text.txt");
    place.write("long.txt", text.repeat(8_000).as_bytes());
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/gpt2");
    let more = ["--steps", "1", "--tokenizer", fixture];
    let mut child = start(&arguments(&place, "out", &["long.txt"], &more));
    wait_for(&place.path("out/data.tokens.evenkeel-new"), &mut child);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    for name in ["out/data.tokens", "out/data.tokens.evenkeel-new", "out/checkpoint.safetensors"] {
        assert!(!is_there(&place, name), "{name}");
    }
}

#[test]
fn settings_change_where_that_makes_sense() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "8", "--lr", "0.02", "--sample", "0", "--evaluate-every", "2"];
    succeed(&arguments(&place, "out", &["text.txt"], &more));
    let text = resume(&place, "out", &["--steps", "12", "--lr", "0.01", "--save-every", "3"]);
    for part in ["changed  steps 8 -> 12", "changed  lr 0.02 -> 0.01", "at step 8 of 12"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let records = records(&place, "out");
    assert_eq!(records.len(), 12);
    // The schedule of twelve steps, of which the ninth is next.
    let rate = records[8]["learning_rate"].as_f64().expect("a number");
    let cosine = (1.0 + (std::f64::consts::PI * 7.0 / 11.0).cos()) / 2.0;
    assert!((rate - 0.01 * (0.1 + 0.9 * cosine)).abs() < 1e-7, "{rate}");
    assert!(resume(&place, "out", &["--quiet"]).contains("loss "), "what was changed stays");

    let out = place.path("out");
    let given = |more: &[&str]| -> Vec<String> {
        ["--resume", &out].iter().chain(more).map(|one| (*one).to_owned()).collect()
    };
    refuse(&given(&["--width", "32"]), 3, &["--width 32 in a run that has 16", "that form"]);
    refuse(&given(&["--optimizer", "lion"]), 3, &["--optimizer", "belongs to that rule"]);
    refuse(&given(&["--seed", "9"]), 3, &["--seed 9 in a run that has 3", "batches"]);
    refuse(&given(&["--tokenizer", "bytes"]), 3, &["--tokenizer \"bytes\""]);
    refuse(&given(&["--budget", "1h"]), 3, &["--budget", "give --steps"]);
    refuse(&given(&["--steps", "5"]), 3, &["--steps 5", "come to step 12"]);
    let other = place.write("other.txt", "the keel is wet; the boat\n".repeat(90).as_bytes());
    refuse(&given(&["--data", &other]), 3, &["not the data that the run has learned"]);
    // The same data in another place.
    fs::rename(place.path("text.txt"), place.path("moved.txt")).expect("moved");
    refuse(&given(&[]), 3, &["text.txt"]);
    resume(&place, "out", &["--data", &place.path("moved.txt"), "--quiet"]);

    let none = place.path("none");
    refuse(&["--resume".into(), none.clone()], 3, &["no save of a run", "--out"]);
    assert!(!Path::new(&none).exists());
}

/// The lowest validation loss is kept, and not the last one.
#[test]
fn the_best_is_kept_and_the_last_saves() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "24", "--lr", "0.02", "--sample", "0", "--evaluate-every", "3"];
    let more = [&more[..], &["--save-every", "2", "--keep", "4"]].concat();
    // Late steps are far too large, so that the loss rises again.
    let steps = ["--schedule", "linear", "--warmup", "1", "--final-lr", "60", "--clip", "0"];
    let text = succeed(&arguments(&place, "out", &["text.txt"], &[&more[..], &steps].concat()));
    let records = records(&place, "out");
    let validated = records.iter().enumerate().filter_map(|(step, record)| {
        Some((step as u64 + 1, record.get("validation_loss")?.as_f64()?))
    });
    let validated: Vec<_> = validated.collect();
    let best = validated.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).expect("losses");
    assert!(best.0 < 24, "the loss has to rise for this test: {validated:?}");
    assert!(
        text.contains(&format!("validation loss {:.3} after {} steps", best.1, best.0)),
        "{text}"
    );

    let bytes = fs::read(place.path("out/best.safetensors")).expect("a save");
    let checkpoint = evenkeel::train::Checkpoint::from_bytes(&bytes).expect("a checkpoint");
    assert_eq!(checkpoint.steps(), best.0);
    let weights = |name: &str| {
        let bytes = fs::read(place.path(name)).expect("a model");
        SafeTensors::deserialize(&bytes)
            .expect("safetensors")
            .tensor("transformer.wte.weight")
            .expect("a table")
            .data()
            .to_vec()
    };
    let best = checkpoint.tensor("token_embedding.weight").expect("a table").1;
    let exported: Vec<f32> = bytemuck::pod_collect_to_vec(&weights("out/best/model.safetensors"));
    assert_eq!(exported, best);
    assert_ne!(weights("out/best/model.safetensors"), weights("out/model/model.safetensors"));
    let steps = [18, 20, 22, 24].map(|step| format!("step-{step:08}.safetensors"));
    assert_eq!(kept(&place, "out"), steps);
}
