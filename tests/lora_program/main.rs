//! `evenkeel lora` as a user runs it, on a model made here.

use std::fs;
use std::path::Path;

use programs::{Place, check_failure, command, lines};
use serde_json::{Value, json};
use tiny_model::{QUESTIONS, write_model};

mod bad_input;
mod device_loss;
#[cfg(unix)]
mod ends;
mod kinds;
mod layouts;
#[path = "../support/programs.rs"]
mod programs;
mod results;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_model.rs"]
mod tiny_model;

const MLX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lora/mlx_defaults.yaml");

/// A model, and records as mlx-lm wants them.
struct Scene {
    place: Place,
    model: String,
    data: String,
}

impl Scene {
    /// `None` where there is no device.
    fn new() -> Option<Self> {
        let gpu = support::gpu()?;
        let place = Place::new();
        let model = write_model(&gpu, &place);
        let data = place.path("data");
        fs::create_dir(&data).expect("a folder");
        let scene = Self { place, model, data };
        for (name, count) in [("train", 24), ("valid", 4), ("test", 4)] {
            scene.write_records(name, count, chat);
        }
        Some(scene)
    }

    fn write_records(&self, name: &str, count: usize, record: fn([&str; 2]) -> Value) {
        let lines =
            QUESTIONS.into_iter().cycle().take(count).map(|pair| format!("{}\n", record(pair)));
        self.place.write(&format!("data/{name}.jsonl"), lines.collect::<String>().as_bytes());
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let own = ["--model", &*self.model, "--data", &*self.data];
        own.iter().chain(more).copied().collect()
    }

    /// A run that must come to its end, in a folder of the place.
    #[track_caller]
    fn tune(&self, out: &str, more: &[&str]) -> String {
        let out = self.place.path(out);
        let train = ["--train", "--adapter-path", &out];
        programs::succeed("evenkeel lora", &self.arguments(&[&train[..], more].concat()))
    }

    #[track_caller]
    fn fail(&self, code: i32, more: &[&str], parts: &[&str]) {
        let arguments = self.arguments(more);
        let output = command("evenkeel lora", &arguments).output().expect("started");
        check_failure(&output, code, &arguments, parts);
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.place.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn has(&self, name: &str) -> bool {
        Path::new(&self.place.path(name)).exists()
    }

    /// The records of a run, without the one number that a clock gives.
    fn records(&self, out: &str) -> Vec<Value> {
        let mut records = lines(&self.place.read(&format!("{out}/metrics.jsonl")));
        for record in &mut records {
            let fields = record.as_object_mut().expect("an object");
            assert!(fields.remove("tokens_per_second").is_some());
        }
        records
    }
}

fn chat([question, answer]: [&str; 2]) -> Value {
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    json!({ "messages": [message("user", question), message("assistant", answer)] })
}

fn completion([question, answer]: [&str; 2]) -> Value {
    json!({ "prompt": question, "completion": answer })
}

fn text([question, answer]: [&str; 2]) -> Value {
    json!({ "text": format!("{question} {answer}") })
}

#[test]
fn the_configuration_of_mlx_runs_as_it_stands() {
    let Some(scene) = Scene::new() else { return };
    let text = scene.tune("out", &["-c", MLX, "--iters", "12"]);
    for part in [
        "24 samples of ",
        "Trainable parameters: ",
        "Iter 0: Val loss ",
        "Iter 10: Train loss ",
        "Iter 12: Train loss ",
        "Learning Rate 1.000e-5",
        "Trained Tokens ",
        "Peak mem ",
        " left",
        "Iter 12: Val loss ",
        "Data: ",
        "Saved final weights to ",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let config: Value =
        serde_json::from_str(&scene.place.read("out/adapter_config.json")).expect("JSON");
    assert_eq!(config["target_modules"], json!(["self_attn.q_proj", "self_attn.v_proj"]));
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(8), &json!(160)));
    assert_eq!(config["base_model_name_or_path"], json!(scene.model));
    for name in ["adapter_model.safetensors", "best/adapter_model.safetensors", "settings.yaml"] {
        assert!(scene.has(&format!("out/{name}")), "{name}");
    }
    let records = scene.records("out");
    assert_eq!(records.len(), 12);
    assert!(records[11]["validation_loss"].as_f64().is_some_and(f64::is_finite));
}

#[test]
fn an_adapter_learns_and_the_best_one_is_kept() {
    let Some(scene) = Scene::new() else { return };
    // The learning rate grows until all that was learned is lost.
    let config = scene.place.write(
        "grows.yaml",
        b"lr_schedule: {name: step_decay, arguments: [1e-2, 30, 50]}\noptimizer: adamw\n\
          lora_parameters: {rank: 8, scale: 2.0}\n",
    );
    let more = ["-c", &config, "--iters", "60", "--steps-per-eval", "10", "--mask-prompt"];
    let text = scene.tune("out", &[&more[..], &["--save-every", "20", "--test"]].concat());
    assert!(text.contains("Test loss ") && text.contains("Saved adapter weights to "), "{text}");
    let records = scene.records("out");
    let loss = |at: usize| records[at]["loss"].as_f64().expect("a number");
    assert!(loss(49) < 0.5 * loss(0), "{} and {}", loss(0), loss(49));
    let validation: Vec<_> =
        records.iter().filter_map(|record| record["validation_loss"].as_f64()).collect();
    assert_eq!(validation.len(), 6);
    let best = validation.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < 0.9 * validation[5], "{validation:?}");
    for name in ["0000020", "0000040", "0000060"] {
        assert!(scene.has(&format!("out/{name}/adapter_model.safetensors")), "{name}");
    }
    let tested = |folder: &str| {
        let folder = scene.place.path(folder);
        let more = ["--test", "--adapter-path", &folder, "--mask-prompt"];
        let text = programs::succeed("evenkeel lora", &scene.arguments(&more));
        let loss = text.split("Test loss ").nth(1).and_then(|rest| rest.split(", ").next());
        loss.and_then(|loss| loss.parse::<f64>().ok()).expect("a loss")
    };
    let (best_tested, last_tested) = (tested("out/best"), tested("out"));
    // The same four records as those to validate on.
    assert!((best_tested - best).abs() < 1e-3, "{best_tested} {best}");
    assert!((last_tested - validation[5]).abs() < 1e-3 * validation[5], "{last_tested}");
}

#[test]
fn reactions_are_recorded_with_their_causes() {
    let Some(scene) = Scene::new() else { return };
    let more = ["--iters", "90", "--learning-rate", "0.002", "--spike-threshold", "0.5"];
    let page = scene.place.path("run.html");
    let events = scene.place.path("events");
    let outputs = ["--report", &page, "--tensorboard", &events];
    let text = scene.tune("out", &[&more[..], &outputs].concat());
    let records = scene.records("out");
    let of = |record: &Value| -> Vec<String> {
        serde_json::from_value(record["events"].clone()).unwrap_or_default()
    };
    // Half of the guard's window must be there before it judges.
    assert!(records[..64].iter().all(|record| of(record).is_empty()));
    let acted: Vec<_> = records[64..].iter().filter(|record| !of(record).is_empty()).collect();
    assert!(!acted.is_empty());
    for record in acted {
        let events = of(record);
        assert_eq!(record["applied"], json!(0), "{record}");
        assert!(events[0].starts_with("skipped: the "), "{events:?}");
        assert!(events[1].contains("spike: ") && events[1].contains("0.5 is the threshold"));
        assert!(text.contains(&events[1]), "{text}");
    }
    assert!(text.contains("steps were skipped"), "{text}");
    assert!(scene.place.read("run.html").contains("</html>"));
    assert_eq!(fs::read_dir(&events).expect("a folder").count(), 1);
}
