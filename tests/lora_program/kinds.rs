//! Each kind of training, of data, and of optimizer takes some steps.

use std::fs;

use evenkeel::hugging_face::{Adapter, Folder};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::tiny_model::config;
use crate::{Scene, completion, programs, text};

const SHORT: [&str; 4] = ["--iters", "3", "--batch-size", "2"];

fn losses(scene: &Scene, out: &str) -> Vec<f64> {
    scene.records(out).iter().map(|record| record["loss"].as_f64().expect("a number")).collect()
}

/// Whether B, which starts at 0, is that no longer.
fn has_moved(scene: &Scene, out: &str) -> bool {
    let file = scene.bytes(&format!("{out}/adapter_model.safetensors"));
    let tensors = SafeTensors::deserialize(&file).expect("tensors").tensors();
    let b = tensors.into_iter().filter(|(name, _)| name.contains(".lora_B."));
    b.into_iter().all(|(_, view)| view.data().iter().any(|&byte| byte != 0))
}

#[test]
fn every_optimizer_takes_steps() {
    let Some(scene) = Scene::new() else { return };
    let config = scene.place.write(
        "optimizers.yaml",
        b"optimizer_config:\n  adam: {}\n  adamw: {betas: [0.9, 0.98], eps: 1e-6, weight_decay: \
          0.05, bias_correction: true}\n  muon: {momentum: 0.9, nesterov: true, ns_steps: 3}\n  \
          sgd: {momentum: 0.9}\n  adafactor: {relative_step: false, scale_parameter: true}\n",
    );
    for name in ["adam", "adamw", "muon", "sgd", "adafactor"] {
        let more = ["--optimizer", name, "-c", &config, "--learning-rate", "0.01"];
        scene.tune(name, &[&SHORT[..], &more].concat());
        assert!(losses(&scene, name).iter().all(|loss| loss.is_finite()), "{name}");
        assert!(has_moved(&scene, name), "{name}");
    }
}

#[test]
fn blocks_and_magnitudes_and_dropout() {
    let Some(scene) = Scene::new() else { return };
    let yaml = scene.place.write(
        "small.yaml",
        b"lora_parameters: {rank: 4, alpha: 8, dropout: 0.1}\nquantize: q8_0\n",
    );
    let more = ["-c", &yaml, "--grad-checkpoint", "--grad-accumulation-steps", "3"];
    let text = scene.tune("blocks", &[&more[..], &["--iters", "7", "--batch-size", "2"]].concat());
    // Two steps of three batches; the seventh makes none.
    assert_eq!(losses(&scene, "blocks").len(), 2);
    assert!(text.contains("Iter 6: Train loss "), "{text}");
    let adapter = Adapter::open(scene.place.path("blocks"), &config()).expect("an adapter");
    assert_eq!((adapter.lora().rank, adapter.lora().alpha), (4, 8.0));
    assert_eq!(adapter.lora().modules(&config().gpt).len(), 7);

    let more = ["--fine-tune-type", "dora", "--quantize", "q4_1", "--num-layers", "-1"];
    scene.tune("dora", &[&SHORT[..], &more].concat());
    let adapter = Adapter::open(scene.place.path("dora"), &config()).expect("an adapter");
    assert!(adapter.lora().dora && has_moved(&scene, "dora"));
}

#[test]
fn all_weights_of_blocks_become_a_model() {
    let Some(scene) = Scene::new() else { return };
    let more = ["--fine-tune-type", "full", "--learning-rate", "0.01", "--save-every", "2"];
    scene.tune("full", &[&SHORT[..], &more].concat());
    let file = |folder: &str| scene.bytes(&format!("{folder}/model.safetensors"));
    let (before, after) = (file("model"), file("full"));
    let [before, after] =
        [&before, &after].map(|file| SafeTensors::deserialize(file).expect("tensors"));
    for name in before.names() {
        let is_same = before.tensor(name).expect("there") == after.tensor(name).expect("there");
        assert_eq!(is_same, !name.contains(".layers."), "{name}");
    }
    for folder in ["full", "full/best", "full/0000002"] {
        Folder::open(scene.place.path(folder)).expect("a model");
        assert!(scene.has(&format!("{folder}/tokenizer.json")));
    }
    let folder = scene.place.path("full");
    let more = ["--test", "--fine-tune-type", "full", "--adapter-path", &folder];
    assert!(programs::succeed("evenkeel lora", &scene.arguments(&more)).contains("Test loss "));
}

#[test]
fn other_records_and_one_file() {
    let Some(scene) = Scene::new() else { return };
    for name in ["train", "valid"] {
        scene.write_records(name, 4, completion);
    }
    let as_completions = scene.tune("completions", &[&SHORT[..], &["--mask-prompt"]].concat());
    assert!(as_completions.contains("4 samples of "), "{as_completions}");

    scene.write_records("train", 20, text);
    let file = scene.place.path("data/train.jsonl");
    let out = scene.place.path("texts");
    let own = ["--model", &scene.model, "--data", &file, "--train", "--adapter-path", &out];
    let all = [&own[..], &SHORT].concat();
    let as_texts = programs::succeed("evenkeel lora", &all);
    assert!(as_texts.contains("2 of them are held out"), "{as_texts}");
    // Quiet is quiet.
    let quiet = programs::succeed("evenkeel lora", &[&all[..], &["--quiet"]].concat());
    assert_eq!(quiet, "");
}

#[test]
fn a_dry_run_prints_what_it_would_do() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let more = ["--train", "--adapter-path", &out, "--dry-run", "-c", crate::MLX, "--clip", "0.5"];
    let text = programs::succeed("evenkeel lora", &scene.arguments(&more));
    assert!(!scene.has("out"));
    let value: Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!(value["model"], Value::from(&*scene.model));
    assert_eq!((value["clip"].as_f64(), value["learning_rate"].as_f64()), (Some(0.5), Some(1e-5)));
    assert_eq!(value["lora_parameters"]["scale"].as_f64(), Some(20.0));
    assert!(text.contains("# ") && text.contains("moments"), "{text}");
    // What it printed is a configuration with the same meaning, in which nothing is left to choose.
    let again = scene.place.write("again.yaml", text.as_bytes());
    let output = programs::succeed("evenkeel lora", &["-c", &again, "--dry-run"]);
    let is_choice = |line: &&str| line.starts_with("# precision ");
    assert_eq!(
        (text.lines().filter(is_choice).count(), output.contains("# precision")),
        (1, false)
    );
    assert!(output.lines().eq(text.lines().filter(|line| !is_choice(line))), "{output}\n{text}");
    fs::remove_file(again).expect("removed");
}
