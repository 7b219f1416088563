//! What is left of a run: saves of milestones, and the result for programs.

use serde_json::{Value, json};

use crate::programs::Place;
use crate::{arguments, is_there, kept, losses, run, succeed, support};

#[test]
fn milestones_stay() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "12", "--save-every", "4", "--keep", "1", "--milestones", "3,4,50"];
    let more = [&more[..], &["--sample", "0", "--lr", "0.02"]].concat();
    let output = run(&arguments(&place, "out", &["text.txt"], &more));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("the run ends before the milestone 50"), "{errors}");
    let names = |steps: &[u64]| -> Vec<String> {
        steps.iter().map(|step| format!("step-{step:08}.safetensors")).collect()
    };
    assert_eq!(kept(&place, "out"), names(&[3, 4, 12]));
    // They stay milestones, and more can come.
    let out = place.path("out");
    let more = ["--resume", &out, "--steps", "16", "--milestones", "3,4,14"].map(str::to_owned);
    succeed(&more);
    assert_eq!(kept(&place, "out"), names(&[3, 4, 14, 16]));
    let none = arguments(&place, "bad", &["text.txt"], &["--milestones", "0"]);
    crate::refuse(&none, 3, &["--milestones is 0"]);
    let yaml = format!("data: {:?}\nsteps: 2\nmilestones: 1\n", place.path("text.txt"));
    let path = place.write("run.yaml", yaml.as_bytes());
    let more = arguments(&place, "yaml", &["text.txt"], &["-c", &path, "--sample", "0"]);
    succeed(&more);
    assert_eq!(kept(&place, "yaml"), names(&[1, 2]));
}

#[test]
fn the_result_is_one_object_for_programs() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "8", "--evaluate-every", "4", "--sample", "5", "--json"];
    let output = run(&arguments(&place, "out", &["text.txt"], &more));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("one object, nothing else");
    assert!(errors.contains("adapter ") && errors.contains("--- sample ---"), "{errors}");
    assert_eq!((&result["steps"], &result["of_steps"]), (&json!(8), &json!(8)));
    assert_eq!(
        (&result["folder"], &result["skipped_steps"]),
        (&json!(place.path("out")), &json!(0))
    );
    // Records have numbers as short as tells those of f32 apart.
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    let losses = losses(&place, "out");
    assert_eq!(number(&result["loss"]["first"]), losses[0] as f32);
    assert_eq!(number(&result["loss"]["last"]), losses[7] as f32);
    let validation = number(&crate::records(&place, "out")[7]["validation_loss"]);
    assert_eq!(number(&result["loss"]["validation"]), validation);
    assert!(number(&result["best"]["validation_loss"]) <= validation, "{result}");
    assert!(result["tokens_per_second"].as_f64().expect("a number") > 0.0);
    assert!(result["loader"]["batches_per_second"].as_f64().expect("a number") > 0.0);
    for name in ["configuration", "metrics", "plot", "sample", "weights", "model", "best"] {
        let path = result["files"][name].as_str().unwrap_or_else(|| panic!("{name}: {result}"));
        assert!(std::path::Path::new(path).exists(), "{path}");
    }
    assert_eq!(result["files"]["table"], Value::Null);
    assert_eq!(result["files"]["checkpoints"].as_array().map(Vec::len), Some(2), "{result}");
    assert!(is_there(&place, "out/data.tokens"));

    // What goes wrong is a line of its own, and no result.
    let failed = run(&arguments(&place, "bad", &["none.txt"], &["--json"]));
    assert_eq!((failed.status.code(), failed.stdout.len()), (Some(3), 0));
    let unclear = run(&arguments(&place, "bad", &["text.txt"], &["--json", "--dry-run"]));
    assert_eq!(unclear.status.code(), Some(2));
}
