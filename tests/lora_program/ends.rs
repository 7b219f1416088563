//! A run that is interrupted or killed goes on, bit by bit, to the end of one that was not.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Scene;
use crate::programs::{command, run, succeed};

const ADAPTER: &str = "adapter_model.safetensors";

/// Dropout and a spike guard that acts: both must go on as they would have.
fn settings(scene: &Scene) -> String {
    scene.place.write(
        "run.yaml",
        b"iters: 120\nbatch_size: 2\nlearning_rate: 1e-3\nsteps_per_eval: 30\nsave_every: 20\n\
          steps_per_report: 5\nspike_threshold: 0.3\nlora_parameters: {rank: 4, dropout: 0.1}\n",
    )
}

fn start(scene: &Scene, config: &str, out: &str, more: &[&str]) -> Child {
    let out = scene.place.path(out);
    let own = ["--train", "-c", config, "--adapter-path", &out];
    let arguments = scene.arguments(&[&own[..], more].concat());
    let mut command = command("evenkeel lora", &arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

fn wait_for(path: &str, child: &mut Child, is_there: impl Fn(&Path) -> bool) {
    let begun = Instant::now();
    while !is_there(Path::new(path)) {
        assert!(child.try_wait().expect("a child").is_none(), "it ended before there was {path}");
        assert!(begun.elapsed() < Duration::from_secs(300), "there was no {path}");
        sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn check_same(scene: &Scene, out: &str) {
    for file in [ADAPTER.to_owned(), format!("best/{ADAPTER}"), format!("0000100/{ADAPTER}")] {
        let [found, wanted] = [out, "whole"].map(|folder| scene.bytes(&format!("{folder}/{file}")));
        assert!(found == wanted, "{out}/{file} is another");
    }
    let (found, wanted) = (scene.records(out), scene.records("whole"));
    assert_eq!(found.len(), 120);
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
}

#[test]
fn a_run_goes_on_bit_by_bit() {
    let Some(scene) = Scene::new() else { return };
    let config = settings(&scene);
    scene.tune("whole", &["-c", &config]);
    let has_events = |record: &serde_json::Value| {
        record["events"].as_array().is_some_and(|events| !events.is_empty())
    };
    assert!(scene.records("whole").iter().any(has_events), "the guard is to act");

    // SIGINT, between two saves.
    let mut child = start(&scene, &config, "out", &["--save-every", "1000"]);
    let metrics = scene.place.path("out/metrics.jsonl");
    wait_for(&metrics, &mut child, |path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    let done = scene.records("out").len();
    assert!((1..120).contains(&done) && scene.has(&format!("out/{ADAPTER}")), "{done}");

    // What is there is not written over, and what makes the run cannot be changed.
    let out = scene.place.path("out");
    let own = ["--train", "-c", &config, "--adapter-path", &out];
    scene.fail(3, &own, &["there is a run that has come to iteration", "--resume", "--restart"]);
    scene.fail(3, &["--resume", &out, "--seed", "7"], &["seed 7 in a run that has 0"]);
    scene.write_records("valid", 3, crate::chat);
    scene.fail(3, &["--resume", &out], &["not the records that the run has learned from"]);
    scene.write_records("valid", 4, crate::chat);

    // Killed on its way, and then to the end: all that was asked for is known.
    let mut child = start(&scene, &config, "out", &["--resume"]);
    let numbered = scene.place.path("out/0000100");
    wait_for(&numbered, &mut child, Path::exists);
    child.kill().expect("killed");
    child.wait().expect("an end");
    let output = run("evenkeel lora", &["--resume", &out]);
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Going on at iteration "), "{said}{errors}");
    check_same(&scene, "out");

    // A run that is over has nothing to do, and goes on where it is given more.
    fs::remove_file(scene.place.path(&format!("out/{ADAPTER}"))).expect("removed");
    let text = succeed("evenkeel lora", &["--resume", &out]);
    assert!(text.contains("Going on at iteration 120 of 120."), "{text}");
    check_same(&scene, "out");
    let output = run("evenkeel lora", &["--resume", &out, "--iters", "123", "--clip", "0.5"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    for part in ["from here on iters is 123; it was 120", "clip is 0.5", "no longer, bit by bit"] {
        assert!(errors.contains(part), "{part:?} is missing in {errors}");
    }
    assert!(output.status.success() && scene.records("out").len() == 123, "{errors}");
}

#[test]
fn a_run_that_was_killed_before_its_first_save_begins() {
    let Some(scene) = Scene::new() else { return };
    let config = settings(&scene);
    let mut child = start(&scene, &config, "out", &[]);
    let lock = scene.place.path("out/.lock");
    wait_for(&lock, &mut child, Path::exists);
    // Another run does not take the folder meanwhile.
    let out = scene.place.path("out");
    let own = ["--train", "-c", &config, "--adapter-path", &out, "--iters", "3"];
    scene.fail(3, &own, &["another run is at work in this folder", "--adapter-path"]);
    child.kill().expect("killed");
    child.wait().expect("an end");
    let more = [&own[..], &["--resume"]].concat();
    let text = succeed("evenkeel lora", &scene.arguments(&more));
    assert!(text.contains("Iter 3: Train loss "), "{text}");
    // Without a place to go on from it is said.
    let none = scene.place.path("none");
    let arguments = scene.arguments(&["--train", "--iters", "1", "--resume", &none]);
    let output = run("evenkeel lora", &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("has no save to go on from"), "{errors}");
}
