//! `evenkeel inspect`

use std::collections::HashMap;

use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::train::Trainer;
use evenkeel::watch::{JsonLines, Record, Sink};
use pollster::block_on;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::models::write_adapter;
use crate::programs::{Place, run, succeed};
use crate::tiny_model::{config, write_gguf, write_model};
use crate::{refuse, support};

const NAME: &str = "evenkeel inspect";

fn inspected(path: &str, more: &[&str]) -> Value {
    let text = succeed(NAME, &[&[path, "--json"], more].concat());
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_model_is_described_with_its_numbers() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    let found = inspected(&model, &["--statistics"]);
    for (name, value) in [
        ("kind", json!("model")),
        ("family", json!("llama")),
        ("layers", json!(1)),
        ("width", json!(32)),
        ("kv_heads", json!(1)),
        ("vocabulary", json!(520)),
        ("chat_template", json!(true)),
        ("nonfinite", json!([])),
    ] {
        assert_eq!(found[name], value, "{name}");
    }
    let file = std::fs::read(place.path("model/model.safetensors")).expect("read");
    let tensors = SafeTensors::deserialize(&file).expect("tensors");
    let rows = found["tensors"].as_array().expect("a list");
    assert_eq!(rows.len(), tensors.len());
    for row in rows {
        let view = tensors.tensor(row["name"].as_str().expect("a name")).expect("there");
        assert_eq!(row["shape"], json!(view.shape()));
        assert_eq!((&row["dtype"], &row["bytes"]), (&json!("F32"), &json!(view.data().len())));
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let wide = || numbers.iter().map(|&x| f64::from(x));
        let count = numbers.len() as f64;
        let expected = [
            ("min", wide().fold(f64::INFINITY, f64::min)),
            ("max", wide().fold(f64::NEG_INFINITY, f64::max)),
            ("mean", wide().sum::<f64>() / count),
            ("rms", (wide().map(|x| x * x).sum::<f64>() / count).sqrt()),
        ];
        for (name, value) in expected {
            let found = row["statistics"][name].as_f64().expect("a number");
            assert!((found - value).abs() <= 1e-12 * value.abs(), "{name}: {found} and {value}");
        }
    }
    let text = succeed(NAME, &[&model]);
    for part in ["family", "llama", "model.embed_tokens.weight", "[520, 32]"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!succeed(NAME, &[&model, "--brief"]).contains("embed_tokens"));
}

#[test]
fn adapters_files_and_runs_are_described() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    write_model(&gpu, &place);
    let found = inspected(&write_adapter(&gpu, &place), &[]);
    assert_eq!((&found["kind"], &found["rank"]), (&json!("adapter"), &json!(4)));
    assert_eq!((&found["method"], &found["tensor_count"]), (&json!("LORA"), &json!(14)));

    let found = inspected(&write_gguf(&place), &["--statistics"]);
    assert_eq!((&found["kind"], &found["layers"]), (&json!("GGUF file"), &json!(1)));
    assert_eq!(found["formats"]["F32"], found["tensor_count"]);
    assert_eq!(found["nonfinite"], json!([]));

    let gpt = Gpt::new(config().gpt).expect("a model");
    let trainer = block_on(Trainer::builder(LanguageModel { gpt, batch: 1, time: 8 }).build(&gpu));
    let checkpoint = block_on(trainer.expect("a trainer").checkpoint()).expect("a checkpoint");
    std::fs::create_dir(place.path("run")).expect("made");
    let file = place.write("run/checkpoint.safetensors", &checkpoint.to_bytes());
    let found = inspected(&file, &["--brief"]);
    assert_eq!((&found["kind"], &found["steps"]), (&json!("checkpoint"), &json!(0)));
    assert_eq!(found["optimizer"], "AdamW");

    let mut metrics = JsonLines::create(place.path("run/metrics.jsonl")).expect("a file");
    for step in 0..5 {
        let applied = if step == 2 { 0.0 } else { 1.0 };
        let record = Record::new(step).with("loss", 4.0 - step as f64).with("applied", applied);
        metrics.record(&record).expect("written");
    }
    metrics.finish().expect("written");
    let found = inspected(&place.path("run"), &["--brief"]);
    let names = ["kind", "records", "skipped_steps", "last_step", "last_loss"];
    assert_eq!(
        names.map(|name| &found[name]),
        [&json!("run"), &json!(5), &json!(1), &json!(4), &json!(0.0)]
    );
    assert_eq!(found["checkpoints"]["checkpoint.safetensors"]["steps"], 0);
}

#[test]
fn what_is_not_finite_is_found() {
    let place = Place::new();
    let numbers = [1.5f32, f32::NAN, -2.0, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
    let whole = [1i64, -3].map(i64::to_le_bytes).concat();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
    let tensors = [
        ("bad", view(Dtype::F32, &[2, 2], &numbers).expect("a tensor")),
        ("odd", view(Dtype::F8_E4M3, &[3], &[0, 1, 2]).expect("a tensor")),
        ("whole", view(Dtype::I64, &[2], &whole).expect("a tensor")),
    ];
    let about = HashMap::from([("made by".to_owned(), "a test".to_owned())]);
    let bytes = safetensors::serialize(tensors, Some(about)).expect("a file");
    let file = place.write("some.safetensors", &bytes);
    // Nothing is read that is not asked for.
    let found = inspected(&file, &[]);
    assert_eq!((&found["kind"], &found["numbers"]), (&json!("safetensors file"), &json!(9)));
    assert_eq!(found["metadata"]["made by"], "a test");

    let output = run(NAME, &[&file, "--statistics", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["nonfinite"], json!(["bad"]));
    let rows = found["tensors"].as_array().expect("a list");
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).expect("a row");
    let expected = json!({ "min": -2.0, "max": 1.5, "mean": -0.25, "rms": 1.767_766_952_966_368_9, "nonfinite": 2 });
    assert_eq!(of("bad")["statistics"], expected);
    assert_eq!(of("whole")["statistics"]["mean"], -1.0);
    assert!(of("odd").get("statistics").is_none());

    let output = run(NAME, &[&file, "--statistics"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("NaN or Inf in 1 of 3 tensors: bad"), "{text}");
    assert!(text.contains("not looked at"), "{text}");
}

#[test]
fn what_cannot_be_inspected_is_named() {
    let place = Place::new();
    let missing = place.path("missing");
    refuse(NAME, &[&missing], &[&missing, "no file and no folder"]);
    let cut = place.write("cut.safetensors", b"12345678{}");
    refuse(NAME, &[&cut], &["cut.safetensors", "no safetensors file"]);
    let bad = place.write("bad.gguf", b"GGUFxxxx");
    refuse(NAME, &[&bad], &["bad.gguf"]);
    refuse(NAME, &[&place.path("text.txt")], &["text.txt", ".safetensors"]);
    std::fs::create_dir(place.path("empty")).expect("made");
    refuse(NAME, &[&place.path("empty")], &["this folder has none of config.json"]);
    place.write("empty/config.json", b"{]");
    refuse(NAME, &[&place.path("empty")], &["config.json", "no JSON"]);
}
