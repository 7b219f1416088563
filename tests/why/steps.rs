//! Steps that go wrong are found, and so is the reason.

use std::fs;

use serde_json::{Value, json};

use crate::programs::{Place, borrowed};
use crate::tiny_model::QUESTIONS;
use crate::{Scene, WHY, programs, records, said, support, why};

#[test]
fn an_overflow_is_traced_to_its_operation() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.broken();
    let recorded = records(&out);
    assert_eq!(recorded[20]["applied"], json!(1), "{}", recorded[20]);
    assert_eq!(recorded[21]["applied"], json!(0), "{}", recorded[21]);
    let before = fs::read(format!("{out}/metrics.jsonl")).expect("records");

    let found = why(0, &[&out]);
    assert_eq!((&found["step"], &found["iteration"]), (&json!(21), &json!(22)));
    assert_eq!((&found["first_step"], &found["compared"]), (&json!(20), &json!(2)));
    assert_eq!(found["troubled_steps"], json!([21, 22, 23]));
    assert_eq!((&found["gave_up"], &found["nonfinite"]), (&json!(23), &json!(true)));
    assert!(found["save"].as_str().expect("a path").contains("state.previous.safetensors"));
    assert_eq!((&found["same_bits"], &found["difference"]), (&json!(true), &Value::Null));
    assert_eq!(found["cause"], json!("data or mathematics"));
    assert!(found["events"][0].as_str().expect("words").starts_with("skipped: "), "{found}");
    // What is trained are the adapters of the only block, and what they read is finite.
    let fault = &found["fault"];
    assert!(fault["label"].as_str().expect("a name").starts_with("blocks.0."), "{fault}");
    assert_eq!(fault["kind"], json!("Computed"));
    assert!(fault["nonfinite_count"].as_u64().expect("a count") > 0);

    // The step before it is the one with that learning rate, and all rows are lost.
    let leap = &found["leap"];
    assert_eq!((&leap["step"], &found["fault_row"]), (&json!(20), &Value::Null), "{found}");
    assert!(leap["name"].as_str().expect("a name").starts_with("blocks.0."), "{leap}");
    assert!(leap["learning_rate"].as_f64().expect("a rate") > 1e20, "{leap}");

    // The records of the batch are those of their lines.
    let batch = found["batch"].as_array().expect("rows");
    assert_eq!(batch.len(), 2);
    for row in batch {
        let line = row["line"].as_u64().expect("a line") as usize;
        let text = row["text"].as_str().expect("a text");
        let [question, answer] = QUESTIONS[(line - 1) % 2];
        assert!(text.contains(question) && text.contains(answer), "{line}: {text}");
        assert!(row["file"].as_str().expect("a file").ends_with("train.jsonl"), "{row}");
    }

    // An earlier step, of which no save is left, is taken again from the beginning.
    let output = programs::run(WHY, &[&out, "--step", "5", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("no save before step 5") && errors.contains("--save-every"),
        "{errors}"
    );
    let early: Value = serde_json::from_str(&said(&output, 0)).expect("an object");
    assert_eq!((&early["first_step"], &early["compared"]), (&json!(0), &json!(6)));
    assert_eq!((&early["same_bits"], &early["events"]), (&json!(true), &Value::Null));

    // The same in words, and nothing in the folder is touched.
    let text = said(&programs::run(WHY, &[&out, "--quiet"]), 0);
    let label = fault["label"].as_str().expect("a name");
    for part in [
        "step      21 (iteration 22): skipped: ",
        "state.previous.safetensors, at step 20: 2 steps taken again",
        "the same in all 2",
        "data or the mathematics",
        "          training gave up in step 23",
        "others    22-23 went wrong too",
        "before    step 20 made blocks.0.",
        "the first value that is not finite",
        label,
        "train.jsonl, line ",
        "    | <|im_start|>user",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(fs::read(format!("{out}/metrics.jsonl")).expect("records"), before);
}

#[test]
fn a_spike_is_traced_to_its_record() {
    let Some(scene) = Scene::new() else { return };
    let strange = "zq9 xv7 kj3 wq8 zx2 vb6 qk1 jz4 xq5 vk0";
    scene.write_records(40, Some((17, strange)));
    let config = scene.place.write(
        "spikes.yaml",
        b"batch_size: 1\niters: 240\nsave_every: 50\nlearning_rate: 5e-3\nspike_threshold: 1.5\n\
          lora_parameters: {rank: 8, scale: 2.0}\n",
    );
    let out = scene.tune("out", 0, &["-c", &config]);
    // The sixth time that all records are learned, the guard judges by what was learned before.
    let recorded = records(&out);
    let loss = |step: &usize| recorded[*step]["loss"].as_f64().expect("a number");
    let step = (200..240).max_by(|a, b| loss(a).total_cmp(&loss(b))).expect("steps");
    let found = why(0, &[&out, "--step", &step.to_string()]);
    assert_eq!((&found["same_bits"], &found["fault"]), (&json!(true), &Value::Null), "{found}");
    assert_eq!(found["first_step"], json!(200));
    let events = found["events"].as_array().unwrap_or_else(|| panic!("{}", recorded[step]));
    assert!(events.iter().any(|event| event.as_str().expect("words").contains("loss spike: ")));
    let row = &found["batch"][0];
    assert_eq!((&row["line"], found["batch"].as_array().expect("rows").len()), (&json!(17), 1));
    assert!(row["text"].as_str().expect("a text").contains(strange), "{row}");
    // Measured by itself it has the loss of its step: there is no dropout.
    let measured = row["loss"].as_f64().expect("a number");
    assert!((measured - loss(&step)).abs() < 1e-3 * measured, "{measured} {}", loss(&step));
    assert_eq!(found["leap"], Value::Null, "{found}");
    let gradients = found["gradients"].as_array().expect("tensors");
    assert!(!gradients.is_empty());
    for tensor in gradients {
        assert!(tensor["name"].as_str().expect("a name").starts_with("blocks.0."), "{tensor}");
        let [norm, usual] = ["gradient_norm", "usual"].map(|name| tensor[name].as_f64());
        assert!(norm.expect("a norm") > 0.0 && usual.expect("a median") > 0.0, "{tensor}");
    }
}

/// Small runs over numbered lines.
fn train(place: &Place, out: &str, data: &str, more: &[&str]) -> String {
    let own = ["--out".to_owned(), place.path(out), "--data".to_owned(), place.path(data)];
    let all: Vec<String> = own
        .into_iter()
        .chain(programs::SMALL.iter().chain(more).map(|argument| (*argument).to_owned()))
        .collect();
    programs::succeed("evenkeel train", &borrowed(&all));
    place.path(out)
}

const TRAIN: [&str; 8] =
    ["--steps", "12", "--save-every", "4", "--report-every", "5", "--sample", "0"];

#[test]
fn steps_of_a_training_are_taken_again() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let text: Vec<_> = (1..90).map(|line| format!("line {line} of the boat")).collect();
    place.write("lines.txt", text.join("\n").as_bytes());
    let out = train(
        &place,
        "out",
        "lines.txt",
        &[&TRAIN[..], &["--dropout", "0.1", "--ema", "0.9"]].concat(),
    );

    let said = said(&programs::run(WHY, &[&out]), 0);
    assert!(said.contains("nothing went wrong: none of 12 steps"), "{said}");
    assert_eq!(why(0, &[&out])["step"], Value::Null);

    // From a save that was kept, and from the beginning, since older ones were not.
    for (step, first) in [(9_u64, 8), (3, 0)] {
        let found = why(0, &[&out, "--step", &step.to_string()]);
        assert_eq!((&found["first_step"], &found["step"]), (&json!(first), &json!(step)));
        assert_eq!(found["same_bits"], json!(true), "{found}");
        assert_eq!(found["compared"], json!(step - first + 1));
        let batch = found["batch"].as_array().expect("rows");
        assert_eq!(batch.len(), 4);
        for row in batch {
            let line = row["line"].as_u64().expect("a line") as usize;
            let window = row["text"].as_str().expect("a text");
            let at = text[line - 1..].join("\n").find(window);
            assert!(at.is_some_and(|at| at <= text[line - 1].len()), "{line}: {window:?}");
        }
    }
}

#[test]
fn a_training_that_overflows_is_traced() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let out = train(&place, "out", "text.txt", &[&TRAIN[..], &["--lr", "1e25"]].concat());
    let recorded = records(&out);
    let last = recorded.iter().rposition(|record| record["applied"] == json!(1)).expect("a step");
    assert!(last < 11, "the steps are to overflow: {}", recorded[11]);
    let found = why(0, &[&out]);
    assert_eq!((&found["step"], &found["iteration"]), (&json!(last + 1), &Value::Null));
    assert_eq!(found["same_bits"], json!(true), "{found}");
    let label = found["fault"]["label"].as_str().unwrap_or_else(|| panic!("{found}"));
    let text = said(&programs::run(WHY, &[&out]), 0);
    assert!(text.contains(&format!("where     {label}")) && text.contains("text.txt, line "));
}

#[test]
fn windows_over_records_name_their_lines() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let lines: Vec<_> =
        (1..60).map(|n| json!({ "text": format!("number {n} keeps the boat {n}") })).collect();
    let lines: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(at, line)| if at % 9 == 4 { Value::Null } else { line })
        .collect();
    // A damaged line is left out, and counted all the same.
    let text: Vec<_> = lines
        .iter()
        .map(|line| if line["text"].is_string() { line.to_string() } else { "{".to_owned() })
        .collect();
    place.write("lines.jsonl", text.join("\n").as_bytes());
    let more = ["--tokenizer", "bpe:270", "--bad-records", "skip"];
    let out = train(&place, "out", "lines.jsonl", &[&TRAIN[..], &more].concat());
    let before = why(0, &[&out, "--step", "10"]);
    // Without the tokens of the run they are made again.
    fs::remove_file(format!("{out}/data.tokens")).expect("tokens");
    let found = why(0, &[&out, "--step", "10"]);
    assert_eq!((&found["same_bits"], &found["first_step"]), (&json!(true), &json!(8)));
    let batch = found["batch"].as_array().expect("rows");
    assert_eq!((batch.len(), &found["batch"]), (4, &before["batch"]));
    for row in batch {
        let line = row["line"].as_u64().expect("a line") as usize;
        let record = lines[line - 1]["text"].as_str().expect("a text");
        let window = row["text"].as_str().expect("a text");
        let (begin, rest) = window.split_once("<|endoftext|>").unwrap_or((window, ""));
        assert!(record.contains(begin), "{line}: {window:?}");
        let next = lines[line..].iter().find(|next| !next.is_null());
        if let Some(next) = next.filter(|_| !rest.is_empty()) {
            let next = next["text"].as_str().expect("a text");
            let rest = rest.split("<|endoftext|>").next().unwrap_or_default();
            assert!(next.starts_with(rest), "{line}: {window:?}");
        }
    }
}

/// Whatever a run does between two saves is done again: microbatches, dropout, blocks, whole
/// weights, and a loss scale that is looked for.
#[test]
fn every_kind_of_run_is_taken_again() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let yaml = b"lora_parameters: {rank: 4, alpha: 8, dropout: 0.1}\nquantize: q8_0\n";
    let config = scene.place.write("blocks.yaml", yaml);
    let kinds: [(&str, &[&str]); 3] = [
        ("blocks", &["-c", &config, "--grad-accumulation-steps", "2"]),
        ("full", &["--fine-tune-type", "full", "--optimizer", "adamw", "--grad-checkpoint"]),
        ("f16", &["--precision", "f16", "--learning-rate", "1e-3", "--batch-size", "3"]),
    ];
    for (name, more) in kinds {
        let own = ["--iters", "8", "--save-every", "4", "--learning-rate", "1e-3"];
        let own = if name == "f16" { &own[..4] } else { &own[..] };
        let out = scene.tune(name, 0, &[own, more].concat());
        let steps = records(&out).len() as u64;
        for (step, first) in [(steps - 1, steps / 2), (1, 0)] {
            let found = why(0, &[&out, "--step", &step.to_string()]);
            assert_eq!(found["same_bits"], json!(true), "{name}: {found}");
            assert_eq!(found["first_step"], json!(first), "{name}");
            assert_eq!(found["iteration"], json!((step + 1) * (8 / steps)), "{name}");
            let rows = found["batch"].as_array().expect("rows").len() as u64;
            let expected = if name == "f16" { 3 } else { 4 * (8 / steps) };
            assert_eq!(rows, expected, "{name}");
        }
    }
}

#[test]
fn settings_are_those_that_the_step_was_taken_with() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let out = scene.tune("out", 0, &["--iters", "6", "--learning-rate", "1e-3"]);
    let changed = ["--resume", &out, "--iters", "9", "--clip", "0.01", "--learning-rate", "5e-3"];
    programs::succeed("evenkeel lora", &changed);
    let found = why(0, &[&out, "--step", "8"]);
    assert_eq!((&found["same_bits"], &found["first_step"]), (&json!(true), &json!(6)), "{found}");
    // A run that was killed before it saved has them in its folder alone.
    fs::remove_file(format!("{out}/state.safetensors")).expect("removed");
    let found = why(0, &[&out, "--step", "8"]);
    assert_eq!((&found["same_bits"], &found["first_step"]), (&json!(true), &json!(6)), "{found}");
    // Those of before would have given other steps.
    let settings = scene.place.read("out/settings.yaml");
    let before = settings.replace("learning_rate: 0.005", "learning_rate: 0.001");
    assert_ne!(settings, before);
    fs::write(format!("{out}/settings.yaml"), before).expect("written");
    let found = why(1, &[&out, "--step", "8"]);
    assert_eq!(found["difference"]["field"], json!("learning_rate"), "{found}");
}

/// A run that begins in the folder of one that is over has its last save as the one before for a
/// while.
#[test]
fn a_save_of_an_earlier_run_is_not_taken() {
    let Some(scene) = Scene::new() else { return };
    scene.write_records(24, None);
    let more = ["--learning-rate", "1e-3", "--batch-size", "2"];
    let out = scene.tune("out", 0, &[&["--iters", "4"][..], &more].concat());
    let stale = fs::read(format!("{out}/state.safetensors")).expect("a save");
    let out = scene.tune("out", 0, &[&["--iters", "3", "--seed", "5"][..], &more].concat());
    fs::write(format!("{out}/state.previous.safetensors"), stale).expect("written");
    let found = why(0, &[&out, "--step", "2"]);
    assert_eq!((&found["same_bits"], &found["first_step"]), (&json!(true), &json!(0)), "{found}");
}
