//! Bits that are others than those of the records are no matter of the data.

use std::fs;

use serde_json::{Value, json};

use crate::programs::Place;
use crate::{Scene, WHY, alter_loss, programs, said, support, why};

/// Writes as many x in the place of the device's name into a save.
fn rename_device(path: &str, name: &str) {
    let mut bytes = fs::read(path).expect("a save");
    let at = bytes.windows(name.len()).position(|part| part == name.as_bytes()).expect("the name");
    bytes[at..at + name.len()].fill(b'x');
    fs::write(path, bytes).expect("written");
}

#[test]
fn another_bit_is_found_and_told_apart() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.broken();
    alter_loss(&out, 20, 1);
    let found = why(1, &[&out]);
    assert_eq!((&found["step"], &found["same_bits"]), (&json!(21), &json!(false)));
    let difference = &found["difference"];
    assert_eq!((&difference["step"], &difference["field"]), (&json!(20), &json!("loss")));
    assert_eq!(difference["ulps"], json!(1), "{difference}");
    // The device itself gives the same bits twice, and the step goes wrong on it.
    assert_eq!(found["second_difference"], Value::Null);
    assert_eq!(found["goes_wrong_here"], json!(true));
    assert!(found["fault"].is_object(), "{found}");
    let text = said(&programs::run(WHY, &[&out]), 1);
    for part in [
        "others than those of the records: first in step 20, whose loss was ",
        "1 unit in the last place apart",
        "but the same each time now",
        "the step goes wrong here as well",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }

    // In a run that was on another adapter that is no wonder.
    let other = "x".repeat(scene.device.len());
    for file in ["state.safetensors", "state.previous.safetensors"] {
        rename_device(&format!("{out}/{file}"), &scene.device);
    }
    let found = why(1, &[&out]);
    assert_eq!(found["cause"], json!("another adapter or driver"));
    let text = said(&programs::run(WHY, &[&out]), 1);
    assert!(text.contains(&format!("the run was on {other}")), "{text}");
    assert!(text.contains(&format!("this is {}", scene.device)), "{text}");
}

#[test]
fn a_training_that_goes_on_elsewhere_says_so() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let [out, data] = ["out", "text.txt"].map(|name| place.path(name));
    let own = ["--out", &out, "--data", &data, "--steps", "3", "--sample", "0", "--quiet"];
    programs::succeed("evenkeel train", &[&own[..], &programs::SMALL].concat());
    rename_device(&format!("{out}/checkpoint.safetensors"), &gpu.info.name);
    let output = programs::run("evenkeel train", &["--resume", &out, "--steps", "4"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("warning: the run was on xx"), "{errors}");
    // It is known where each step was taken: the last one here.
    let found = why(0, &[&out, "--step", "3"]);
    assert_eq!((&found["same_bits"], &found["first_step"]), (&json!(true), &json!(3)), "{found}");
}
