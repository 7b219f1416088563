//! Bits that are others than those of the records are no matter of the data.

use std::fs;

use serde_json::{Value, json};

use crate::{Scene, WHY, alter_loss, programs, said, why};

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
    let name = scene.device.as_bytes();
    let other = "x".repeat(name.len());
    for file in ["state.safetensors", "state.previous.safetensors"] {
        let path = format!("{out}/{file}");
        let mut bytes = fs::read(&path).expect("a save");
        let at = bytes.windows(name.len()).position(|part| part == name).expect("the name");
        bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
        fs::write(&path, bytes).expect("written");
    }
    let found = why(1, &[&out]);
    assert_eq!(found["cause"], json!("another adapter or driver"));
    let text = said(&programs::run(WHY, &[&out]), 1);
    assert!(text.contains(&format!("the run was on {other}")), "{text}");
    assert!(text.contains(&format!("this is {}", scene.device)), "{text}");
}
