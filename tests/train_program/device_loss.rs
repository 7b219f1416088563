//! A training whose device is lost goes on, bit by bit, to the end of one that kept its device.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::programs::{Place, succeed as succeed_with};
use crate::{TRAIN, arguments, kept, records, run, succeed, support};

const STEPS: [&str; 10] = [
    "--steps",
    "20",
    "--save-every",
    "5",
    "--report-every",
    "2",
    "--evaluate-every",
    "5",
    "--sample",
    "0",
];

#[test]
fn a_lost_device_is_regained() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = [&STEPS[..], &["--dropout", "0.1", "--ema", "0.9"]].concat();
    succeed(&arguments(&place, "whole", &["text.txt"], &more));
    let lost = [&more[..], &["--lose-device-at", "2,8,9,15"]].concat();
    let output = run(&arguments(&place, "out", &["text.txt"], &lost));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for (at, from) in [(2, 0), (8, 5), (9, 5), (15, 15)] {
        let wanted = format!("lost at step {at} (Destroyed); going on from step {from}\n");
        assert!(errors.contains(&wanted), "{wanted:?} is missing in {errors}");
    }
    // The run is said to be over once.
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches(" -> ").count(), 1, "{text}");

    let (mut found, wanted) = (records(&place, "out"), records(&place, "whole"));
    let mut events = Vec::new();
    for (step, record) in found.iter_mut().enumerate() {
        if let Some(Value::Array(list)) = record.get_mut("events") {
            let (lost, others) = std::mem::take(list).into_iter().partition(|event| {
                event.as_str().is_some_and(|event| event.starts_with("the device was lost"))
            });
            let lost: Vec<Value> = lost;
            events.extend(lost.iter().map(|_| step));
            *list = others;
            if list.is_empty() {
                record.as_object_mut().expect("an object").remove("events");
            }
        }
    }
    assert_eq!(events, [0, 5, 5, 15]);
    assert_eq!(found, wanted);
    for name in ["checkpoint.safetensors", "model/model.safetensors", "best/model.safetensors"] {
        let [one, other] = ["out", "whole"]
            .map(|out| fs::read(place.path(&format!("{out}/{name}"))).expect("a file"));
        let [one, other] =
            [&one, &other].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
        assert_eq!(one.len(), other.len());
        for tensor in one.names() {
            let [one, other] = [&one, &other].map(|file| file.tensor(tensor).expect("it"));
            assert_eq!(one, other, "{name}: {tensor}");
        }
    }
    assert_eq!(kept(&place, "out"), kept(&place, "whole"));
}

#[test]
fn a_device_that_is_lost_again_and_again_ends_the_run() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let lost = [&STEPS[..], &["--lose-device-at", "7,6,8,6"]].concat();
    let output = run(&arguments(&place, "out", &["text.txt"], &lost));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{errors}");
    let error = errors.lines().last().expect("a line");
    for part in ["error: ", "lost and not regained", "step 5", "--save-every", "--resume"] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
    let text = succeed_with(TRAIN, &["--resume", &place.path("out")]);
    assert!(text.contains("resumed  at step 5 of 20"), "{text}");
    assert_eq!(records(&place, "out").len(), 20);
}

#[test]
fn the_precision_that_was_chosen_stays() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "2", "--sample", "0"];
    let text = succeed(&arguments(&place, "out", &["text.txt"], &more));
    let said = text.lines().find(|line| line.starts_with("precision ")).expect("a line");
    let config = place.read("out/config.yaml");
    let chosen = config.lines().find(|line| line.starts_with("precision: ")).expect("a line");
    let chosen = chosen.trim_start_matches("precision: ").trim_matches('"');
    assert_eq!(said.split_whitespace().nth(1), Some(chosen), "{said}");
    let out = place.path("out");
    let resumed = succeed_with(TRAIN, &["--resume", &out, "--steps", "3", "--precision", "auto"]);
    assert!(!resumed.contains("precision"), "{resumed}");
    // One that is given is not measured.
    let given = succeed(&arguments(
        &place,
        "given",
        &["text.txt"],
        &[&more[..], &["--precision", "bf16"]].concat(),
    ));
    assert!(!given.lines().any(|line| line.starts_with("precision ")), "{given}");
}
