//! A run whose device is lost goes on, bit by bit, to the end of one that kept its device.

use std::fs;

use serde_json::{Value, json};

use crate::Scene;
use crate::programs::{run, succeed};

const ADAPTER: &str = "adapter_model.safetensors";

/// The events of a run by their steps.
fn events(records: &[Value]) -> Vec<(usize, String)> {
    let of = |(step, record): (usize, &Value)| {
        let events: Vec<String> = serde_json::from_value(record["events"].clone()).ok()?;
        Some(events.into_iter().map(move |event| (step, event)))
    };
    records.iter().enumerate().filter_map(of).flatten().collect()
}

/// Records without the events of losses.
fn without_losses(mut records: Vec<Value>) -> Vec<Value> {
    for record in &mut records {
        let fields = record.as_object_mut().expect("an object");
        if let Some(Value::Array(events)) = fields.get_mut("events") {
            events.retain(|event| !event.as_str().is_some_and(|event| event.contains("lost")));
            if events.is_empty() {
                fields.remove("events");
            }
        }
    }
    records
}

#[test]
fn a_lost_device_is_regained() {
    let Some(scene) = Scene::new() else { return };
    let config = scene.place.write(
        "run.yaml",
        b"iters: 24\nbatch_size: 2\nlearning_rate: 1e-3\nsteps_per_eval: 6\nsave_every: 8\n\
          steps_per_report: 4\nema: 0.9\nlora_parameters: {rank: 4, dropout: 0.1}\n",
    );
    scene.tune("whole", &["-c", &config]);
    let out = scene.place.path("out");
    // Before the first save but the one at the beginning, twice behind the same save, at a save.
    let own = ["--train", "-c", &config, "--adapter-path", &out];
    let lost = ["--lose-device-at", "3,13,14,16"];
    let output = run("evenkeel lora", &scene.arguments(&[&own[..], &lost].concat()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for (at, from) in [(3, 0), (13, 8), (14, 8), (16, 16)] {
        let wanted =
            format!("warning: the device was lost at step {at} (Destroyed); going on from");
        let line = errors.lines().find(|line| line.starts_with(&wanted));
        let line = line.unwrap_or_else(|| panic!("{wanted} is missing in {errors}"));
        assert!(line.ends_with(&format!("going on from step {from}")), "{line}");
    }
    for file in [ADAPTER.to_owned(), format!("best/{ADAPTER}"), format!("0000016/{ADAPTER}")] {
        assert!(
            scene.bytes(&format!("out/{file}")) == scene.bytes(&format!("whole/{file}")),
            "{file}"
        );
    }
    let records = scene.records("out");
    let found = events(&records);
    let steps: Vec<_> = found.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 8, 8, 16], "{found:?}");
    assert!(found[1].1.contains("lost at step 13") && found[2].1.contains("lost at step 14"));
    assert_eq!(without_losses(records), without_losses(scene.records("whole")));
}

#[test]
fn a_device_that_is_lost_again_and_again_ends_the_run() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let own = ["--train", "--adapter-path", &out, "--iters", "8", "--save-every", "4"];
    let more = ["--batch-size", "2", "--lose-device-at", "6,6,6,6"];
    let output = run("evenkeel lora", &scene.arguments(&[&own[..], &more].concat()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{errors}");
    let error = errors.lines().last().expect("a line");
    for part in ["error: the GPU device was lost and not regained", "step 4", "--resume"] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
    assert_eq!(errors.matches("going on from step 4").count(), 3, "{errors}");
    // What was saved is there, and the run goes on from it.
    let text = succeed("evenkeel lora", &["--resume", &out]);
    assert!(text.contains("Going on at iteration 4 of 8."), "{text}");
    assert_eq!(scene.records("out").len(), 8);
}

/// The save of an earlier run in the folder is not taken for one of this run.
#[test]
fn a_loss_before_the_first_step_begins_anew() {
    let Some(scene) = Scene::new() else { return };
    let own = ["--iters", "4", "--batch-size", "2", "--learning-rate", "1e-3"];
    scene.tune("whole", &[&own[..], &["--seed", "3"]].concat());
    scene.tune("out", &own);
    scene.tune("out", &[&own[..], &["--seed", "3", "--lose-device-at", "0"]].concat());
    assert!(scene.bytes(&format!("out/{ADAPTER}")) == scene.bytes(&format!("whole/{ADAPTER}")));
    let events: Vec<String> =
        serde_json::from_value(scene.records("out")[0]["events"].clone()).expect("events");
    assert_eq!(events, ["the device was lost at step 0 (Destroyed); going on from step 0"]);
}

#[test]
fn an_average_is_what_is_saved() {
    let Some(scene) = Scene::new() else { return };
    let own = ["--iters", "12", "--batch-size", "2", "--learning-rate", "1e-2", "--test"];
    let plain = scene.tune("plain", &own);
    let text = scene.tune("out", &[&own[..], &["--ema", "0.9"]].concat());
    let tested = |text: &str| {
        let loss = text.split("Test loss ").nth(1).and_then(|rest| rest.split(',').next());
        loss.expect("a loss").to_owned()
    };
    // The steps are the same, and what is measured and written is not.
    let [own_records, plain_records] = ["out", "plain"].map(|out| scene.records(out));
    assert_eq!(own_records[11]["loss"], plain_records[11]["loss"]);
    assert_ne!(own_records[11]["validation_loss"], plain_records[11]["validation_loss"]);
    assert!(scene.bytes(&format!("out/{ADAPTER}")) != scene.bytes(&format!("plain/{ADAPTER}")));
    assert_ne!(tested(&text), tested(&plain));
    // What was written is what was measured.
    let out = scene.place.path("out");
    let again = succeed("evenkeel lora", &scene.arguments(&["--test", "--adapter-path", &out]));
    assert_eq!(tested(&again), tested(&text));
    // It goes on bit by bit.
    let half = scene.place.path("half");
    let more = ["--iters", "6", "--ema", "0.9"];
    let begun = [&own[2..], &more].concat();
    scene.tune("half", &begun);
    succeed("evenkeel lora", &["--resume", &half, "--iters", "12"]);
    assert!(scene.bytes(&format!("half/{ADAPTER}")) == scene.bytes(&format!("out/{ADAPTER}")));
    scene.fail(3, &["--train", "--ema", "1"], &["ema is 1", "below 1"]);
}

#[test]
fn the_precision_that_was_chosen_stays() {
    let Some(scene) = Scene::new() else { return };
    let own = ["--iters", "3", "--batch-size", "2", "--precision", "auto"];
    let text = scene.tune("out", &own);
    let settings = scene.place.read("out/settings.yaml");
    let chosen = settings.lines().find(|line| line.starts_with("precision: ")).expect("a line");
    let chosen = chosen.trim_start_matches("precision: ");
    assert!(chosen == "f32" || chosen == "bf16", "{settings}");
    assert!(text.contains(&format!("Precision {chosen}: ")), "{text}");
    let out = scene.place.path("out");
    let output = run("evenkeel lora", &["--resume", &out, "--iters", "4", "--precision", "auto"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("precision"), "{errors}");

    // What has no room in f32 takes what has.
    let more = ["--train", "--dry-run", "--num-layers", "-1", "--batch-size", "8"];
    let dry = |more: &[&str]| succeed("evenkeel lora", &scene.arguments(more));
    let mib = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("#   all "));
        line.and_then(|all| all.trim().parse::<f64>().ok()).expect("a total")
    };
    let of = |precision: &str| mib(&dry(&[&more[..], &["--precision", precision]].concat()));
    let (full, half) = (of("f32"), of("bf16"));
    assert!(half < full, "{half} {full}");
    let limit = ((full + half) / 2.0 / 1024.0).to_string();
    let text = dry(&[&more[..], &["--memory-limit", &limit]].concat());
    assert!(text.contains("precision: bf16\n") && text.contains("f32 does not fit"), "{text}");
    let blocks = mib(&dry(&[&more[..], &["--precision", "bf16", "--quantize", "q4_0"]].concat()));
    assert!(blocks + 0.02 < half, "{blocks} {half}");
    let limit = ((blocks + 0.01) / 1024.0).to_string();
    let text = dry(&[&more[..], &["--memory-limit", &limit]].concat());
    assert!(
        text.contains("quantize: q") && text.contains("for the weights of the model"),
        "{text}"
    );
    // The plan has the saves of what is trained.
    let all = dry(&more);
    let host = |what: &str| {
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("#   {what} ")));
        line.and_then(|mib| mib.trim().parse::<f64>().ok()).expect("MiB")
    };
    assert!(host("a checkpoint") < host("weights, frozen"), "{all}");
    let state = fs::metadata(format!("{out}/state.safetensors")).expect("a save").len();
    assert!(state < 1 << 20, "{state}");
    assert_eq!(json!(chosen), json!("f32"), "software adapters take f32");
}
