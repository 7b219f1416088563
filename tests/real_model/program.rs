//! The program on the real model: the file as a folder, mlx-lm's own configuration over it as it
//! stands, and what comes of it in the hands of others.

use std::fs;
use std::path::Path;
use std::process::Command;

use evenkeel::Gpu;
use evenkeel::hugging_face::{Adapter, Folder};
use evenkeel::nn::Gpt;
use evenkeel::plan::Parameters;
use evenkeel::train::{Batch, Predictor};
use serde_json::{Value, json};

use super::Real;
use super::predictions::loaded;
use super::programs::{Place, lines, succeed};
use super::support::{self, block_on};

/// What mlx-lm's own example sets.
const MLX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lora/mlx_defaults.yaml");
const ITERATIONS: usize = 4;

/// Four short records, which are one batch of that configuration.
fn write_data(place: &Place) -> String {
    let record = |[prompt, completion]: [&str; 2]| {
        json!({ "prompt": prompt, "completion": completion }).to_string()
    };
    let all = [
        ["What is a keel?", "The backbone of a boat."],
        ["What does a keel do?", "It keeps the boat upright."],
        ["Who needs a keel?", "Whoever sails."],
        ["Is a raft a boat?", "It has no keel."],
    ];
    let text = all.map(record).join("\n");
    let folder = place.path("data");
    fs::create_dir(&folder).expect("a folder");
    for name in ["train", "valid"] {
        place.write(&format!("data/{name}.jsonl"), text.as_bytes());
    }
    folder
}

#[test]
fn the_configuration_of_mlx_tunes_it() {
    let Some(_) = Real::open() else { return };
    let Some(gpu) = support::exclusive_gpu() else { return };
    let file = std::env::var("EVENKEEL_REAL_MODEL").expect("a path");
    let place = Place::new();
    let [model, adapter] = ["model", "adapter"].map(|name| place.path(name));
    succeed("evenkeel convert", &[&file, "--out", &model]);
    assert!(Path::new(&model).join("tokenizer.json").is_file());

    let data = write_data(&place);
    let iterations = ITERATIONS.to_string();
    let own = ["-c", MLX, "--model", &model, "--data", &data, "--adapter-path", &adapter];
    let text = succeed("evenkeel lora", &[&own[..], &["--iters", &iterations]].concat());
    assert!(text.contains("Trainable parameters: ") && text.contains("Saved final"), "{text}");
    let records = lines(&place.read("adapter/metrics.jsonl"));
    assert_eq!(records.len(), ITERATIONS);
    let loss = |step: usize| records[step]["loss"].as_f64().expect("a number");
    assert!(loss(ITERATIONS - 1) < loss(0), "{} {}", loss(0), loss(ITERATIONS - 1));
    let validation = records[ITERATIONS - 1]["validation_loss"].as_f64().expect("a number");
    assert!(validation.is_finite() && validation < loss(0), "{validation} {}", loss(0));

    // The adapter is what its configuration says, in the last sixteen blocks.
    let folder = Folder::open(&model).unwrap_or_else(|error| panic!("{error}"));
    let opened = Adapter::open(&adapter, folder.config()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((opened.lora().rank, opened.lora().alpha), (8, 160.0));
    let blocks = folder.config().gpt.layers;
    assert_eq!(opened.lora().layers, Some((blocks - 16..blocks).collect()));
    let base: Value =
        serde_json::from_str(&place.read("adapter/adapter_config.json")).expect("JSON");
    assert_eq!(base["base_model_name_or_path"], json!(model));

    let prompt = ["--prompt", "What is a keel?", "--max-tokens", "12"];
    let with = ["--model", &model, "--adapter-path", &adapter];
    let text = succeed("evenkeel generate", &[&with[..], &prompt].concat());
    assert!(text.chars().filter(|character| character.is_alphabetic()).count() > 8, "{text:?}");

    compare_with_peft(&gpu, &place, &folder, &opened);
}

/// Where `EVENKEEL_PEFT_PYTHON` names a Python with torch, transformers and peft: its logits with
/// the adapter are those of this library.
fn compare_with_peft(gpu: &Gpu, place: &Place, folder: &Folder, adapter: &Adapter) {
    let Some(python) = std::env::var_os("EVENKEEL_PEFT_PYTHON") else { return };
    let ids = [1_u32, 4093, 198, 1780, 314, 253, 10_102, 29, 47, 2];
    let (gpt, parameters) = loaded(adapter.gpt(), gpu, &mut folder.reader(|_| {}));
    block_on(parameters.load(&mut adapter.reader())).unwrap_or_else(|error| panic!("{error}"));
    let logits = logits(gpu, &gpt, &parameters, &ids);
    let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let ours = place.write("logits.bin", &bytes);
    let ids = place.write("ids.txt", ids.map(|id| id.to_string()).join(" ").as_bytes());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/check_adapter.py");
    let folders = ["model", "adapter"].map(|name| place.path(name));
    let mut check = Command::new(python);
    let output = check.arg(script).args(folders).args([ids, ours]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    println!("{said}");
}

fn logits(gpu: &Gpu, gpt: &Gpt, parameters: &Parameters, ids: &[u32]) -> Vec<f32> {
    let vocabulary = gpt.config().vocabulary;
    let predictor = block_on(Predictor::new(gpu, parameters, |graph| {
        let tokens = graph.tokens("tokens", [1, ids.len()], vocabulary);
        vec![gpt.logits(graph, tokens)]
    }));
    let batch = Batch::new().with("tokens", ids);
    block_on(predictor.expect("a predictor").run(&batch)).expect("logits").swap_remove(0)
}
