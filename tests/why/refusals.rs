//! What cannot be looked into is named, with a way out.

use std::fs;

use serde_json::json;

use crate::{Scene, WHY, programs, refuse, why};

#[test]
fn what_is_no_run_is_named() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let out = scene.tune("out", 0, &["--iters", "4", "--batch-size", "2"]);
    let missing = scene.place.path("missing");
    refuse(&[&missing], &[&missing, "there is no folder"]);
    refuse(&[&scene.model], &["there is no metrics.jsonl"]);
    refuse(&[&out, "--step", "4"], &["--step is 4", "metrics.jsonl", "counted from 0"]);
    let output = programs::run(WHY, &[]);
    assert_eq!(output.status.code(), Some(2));

    // Records alone do not say what was computed, and a save is needed beside the settings.
    let alone = scene.place.path("alone");
    fs::create_dir(&alone).expect("a folder");
    let copy = |name: &str| {
        fs::copy(format!("{out}/{name}"), format!("{alone}/{name}")).expect("copied");
    };
    copy("metrics.jsonl");
    let none = "neither the settings nor a save of a run of evenkeel lora or evenkeel train";
    refuse(&[&alone, "--step", "2"], &[&alone, none, "--save-every"]);
    copy("settings.yaml");
    refuse(&[&alone, "--step", "2"], &[&alone, "there is no save of a run", "--save-every"]);

    // Data that have been moved are to be named.
    let [data, moved] = ["data", "moved"].map(|name| scene.place.path(name));
    fs::rename(&data, &moved).expect("moved");
    refuse(&[&out, "--step", "2"], &[&data, "there is no folder"]);
    let found = why(0, &[&out, "--step", "2", "--data", &moved]);
    assert_eq!(found["same_bits"], json!(true), "{found}");
    fs::rename(&moved, &data).expect("moved back");

    // Other records would make other batches.
    scene.write_records(23, None);
    refuse(&[&out, "--step", "2"], &["not the records that the run has learned from"]);
}

/// Signals are those of Unix, and only Linux says who listens for them.
#[cfg(target_os = "linux")]
#[test]
fn an_interruption_ends_it() {
    use std::process::{Command, Stdio};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let out = scene.tune("out", 0, &["--iters", "120", "--batch-size", "1", "--save-every", "60"]);
    let mut command = crate::command(WHY, &[&*out, "--step", "59"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let (status, begun) = (format!("/proc/{}/status", child.id()), Instant::now());
    let listens = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask & 2 != 0)
    };
    while !listens() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not listen for signals");
        sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}
