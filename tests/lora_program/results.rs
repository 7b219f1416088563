//! `--json`: the result as one object, and all else aside.

use serde_json::Value;

use crate::Scene;
use crate::programs::command;

fn object(arguments: &[&str]) -> (Value, String) {
    let output = command("evenkeel lora", arguments).output().expect("started");
    let [text, aside] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    assert!(output.status.success(), "{aside}");
    let value = serde_json::from_str(&text);
    (value.unwrap_or_else(|error| panic!("{error}: {text}")), aside)
}

#[test]
fn a_result_is_one_object() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let more = ["--iters", "6", "--steps-per-eval", "3", "--batch-size", "2", "--test", "--json"];
    let run = ["--train", "--adapter-path", &out];
    let (result, aside) = object(&scene.arguments(&[&run[..], &more].concat()));
    assert!(aside.contains("Val loss") && aside.contains("Test loss"), "{aside}");
    assert_eq!(result["folder"], Value::from(&*out));
    assert_eq!((&result["iterations"], &result["of_iterations"]), (&6.into(), &6.into()));
    assert_eq!(result["skipped_steps"], 0);

    let records = scene.records("out");
    let last = records.last().expect("records");
    // Records have numbers as short as tells those of f32 apart.
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    assert_eq!(number(&result["loss"]["last"]), number(&last["loss"]));
    assert_eq!(number(&result["loss"]["validation"]), number(&last["validation_loss"]));
    let validated = records.iter().map(|record| &record["validation_loss"]);
    let lowest = validated.filter(|loss| loss.is_number()).map(number).fold(f32::MAX, f32::min);
    // The first validation comes before the first record.
    assert!(number(&result["best"]["validation_loss"]) <= lowest, "{result}");
    assert!(scene.has("out/best/adapter_model.safetensors"));
    let test = result["test"]["loss"].as_f64().expect("a loss");
    assert_eq!(result["test"]["perplexity"].as_f64(), Some(test.exp()));
    assert!(result["trained_tokens"].as_u64().expect("a count") > 0, "{result}");

    // What was saved last is what was tested.
    let saved = ["--test", "--adapter-path", &out, "--batch-size", "2", "--json"];
    let (again, _) = object(&scene.arguments(&saved));
    assert_eq!(again["test"], result["test"]);

    let unclear = scene.arguments(&["--train", "--dry-run", "--json"]);
    let unclear = command("evenkeel lora", &unclear).output().expect("started");
    assert_eq!(unclear.status.code(), Some(2));
}

/// Records that cannot be written end a run that is otherwise whole with a code of their own.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_has_its_code() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    std::fs::create_dir(&out).expect("a folder");
    std::os::unix::fs::symlink("/dev/full", scene.place.path("out/metrics.jsonl")).expect("a link");
    let quiet = ["--train", "--adapter-path", &out, "--iters", "2", "--quiet"];
    let output = command("evenkeel lora", &scene.arguments(&quiet)).output().expect("started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let said: Vec<_> = errors.lines().collect();
    let [warning, last] = said[..] else { panic!("{errors}") };
    assert!(warning.starts_with("warning: ") && warning.ends_with("the run goes on"), "{errors}");
    assert!(last.starts_with("error: ") && last.contains("metrics.jsonl"), "{errors}");
    assert!(scene.has("out/adapter_model.safetensors"));
}
