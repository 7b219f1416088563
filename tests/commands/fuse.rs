//! `evenkeel fuse`

use std::fs;

use evenkeel::hugging_face::{Folder, SafetensorsFile};
use serde_json::Value;

use crate::models::{Reference, write_adapter};
use crate::programs::{Place, succeed};
use crate::tiny_model::write_model;
use crate::{refuse, refuse_usage, support};

const NAME: &str = "evenkeel fuse";

/// The numbers of a tensor of F32.
fn numbers(path: &str, name: &str) -> Vec<f32> {
    let file = SafetensorsFile::open(path).expect("a file");
    let tensor = file.tensors().iter().find(|tensor| tensor.name == name).expect("a tensor");
    bytemuck::pod_collect_to_vec(&file.read(tensor, 0..tensor.bytes()).expect("numbers"))
}

#[test]
fn an_adapter_becomes_a_part_of_the_weights() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let out = place.path("fused");
    let own = ["--model", &model, "--adapter-path", &adapter, "--save-path", &out];
    let text = succeed(NAME, &own);
    assert!(text.contains("wrote ") && text.contains(&out), "{text}");

    // W + alpha / rank B A, of one module.
    let module = "model.layers.0.self_attn.o_proj";
    let was = numbers(&place.path("model/model.safetensors"), &format!("{module}.weight"));
    let is = numbers(&place.path("fused/model.safetensors"), &format!("{module}.weight"));
    let adapters = place.path("adapter/adapter_model.safetensors");
    let [a, b] = ["A", "B"]
        .map(|name| numbers(&adapters, &format!("base_model.model.{module}.lora_{name}.weight")));
    assert_eq!((was.len(), a.len(), b.len()), (32 * 32, 4 * 32, 32 * 4));
    for (at, (was, is)) in was.iter().zip(&is).enumerate() {
        let (row, column) = (at / 32, at % 32);
        let product = (0..4).map(|k| f64::from(b[row * 4 + k]) * f64::from(a[k * 32 + column]));
        let expected = f64::from(*was) + 2.0 * product.sum::<f64>();
        // One rounding to f32.
        assert!((f64::from(*is) - expected).abs() <= 6e-8 * expected.abs() + 1e-12, "{at}");
    }

    // The folder is a whole one, and says what the two said.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |folder: &str| fs::read(place.path(&format!("{folder}/{name}"))).expect("read");
        assert_eq!(read("fused"), read("model"), "{name}");
    }
    let alone = Reference::open(&gpu, &model, None);
    let beside = Reference::open(&gpu, &model, Some(&adapter));
    let fused = Reference::open(&gpu, &out, None);
    let tokens = beside.tokenizer.encode("the keel keeps the boat even", true).expect("ids");
    let [alone, beside, fused] =
        [alone, beside, fused].map(|reference| reference.logits(&tokens).concat());
    let largest = beside.iter().fold(0.0f64, |largest, logit| largest.max(logit.abs()));
    let off =
        |other: &[f64]| beside.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // f32 products of up to 64 terms in another order, through one layer.
    let (off, changed) = (off(&fused), off(&alone));
    assert!(off <= 2e-5 * largest && changed > 1e-2 * largest, "{off}, {changed} of {largest}");
}

#[test]
fn types_and_folders_are_chosen() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let out = place.path("fused");
    let own = ["--model", &model, "--adapter-path", &adapter, "--save-path", &out];
    succeed(NAME, &[&own[..], &["--dtype", "bfloat16"]].concat());
    let file = SafetensorsFile::open(place.path("fused/model.safetensors")).expect("a file");
    assert!(file.tensors().iter().all(|tensor| tensor.dtype.to_string() == "BF16"));
    let config: Value = serde_json::from_str(&place.read("fused/config.json")).expect("JSON");
    assert_eq!(config["torch_dtype"], "bfloat16");
    Folder::open(&out).expect("a folder");

    // What is there stays unless it is to be written over.
    refuse(NAME, &own, &[&out, "there are files", "--save-path", "--overwrite"]);
    succeed(NAME, &[&own[..], &["--overwrite", "--dtype", "f16"]].concat());
    let file = SafetensorsFile::open(place.path("fused/model.safetensors")).expect("a file");
    assert!(file.tensors().iter().all(|tensor| tensor.dtype.to_string() == "F16"));
}

#[test]
fn what_cannot_be_fused_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let (missing, out) = (place.path("missing"), place.path("out"));
    let file = place.write("file", b"a file");
    let cases: [([&str; 3], &[&str]); 5] = [
        ([&missing, &adapter, &out], &[&missing, "there is no folder"]),
        ([&model, &missing, &out], &[&missing, "adapter_config.json"]),
        ([&model, &model, &out], &["adapter_config.json", "there is none"]),
        ([&model, &adapter, &model], &["this is what is read", "--save-path"]),
        ([&model, &adapter, &file], &[&file, "cannot be written", "--save-path"]),
    ];
    for ([model, adapter, out], parts) in cases {
        let own = ["--model", model, "--adapter-path", adapter, "--save-path", out];
        // Also where files may be written over.
        refuse(NAME, &[&own[..], &["--overwrite"]].concat(), parts);
    }
    assert!(fs::read_dir(&out).is_err(), "something was made");
    refuse_usage(NAME, &["--model", &model, "--dtype", "q4_0"]);
}

#[test]
fn gguf_files_come_out() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, adapter) = (write_model(&gpu, &place), write_adapter(&gpu, &place));
    let own = |path: &str, more: &[&str]| {
        let own = ["--model", &model, "--adapter-path", &adapter, "--save-path", path];
        [&own[..], more].concat().iter().map(|&part| part.to_owned()).collect::<Vec<_>>()
    };
    let fuse = |path: &str, more: &[&str]| {
        let own = own(path, more);
        succeed(NAME, &own.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refused = |path: &str, more: &[&str], parts: &[&str]| {
        let own = own(path, more);
        refuse(NAME, &own.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    // Alone, it is what becomes of the fused folder.
    let (folder, file) = (place.path("fused"), place.path("fused.gguf"));
    fuse(&file, &[]);
    let text = fuse(&folder, &["--export-gguf"]);
    assert!(text.contains("ggml-model-f16.gguf"), "{text}");
    let converted = place.path("converted.gguf");
    succeed("evenkeel convert", &[&folder, "--out", &converted]);
    let read = |path: &str| fs::read(path).expect("read");
    assert!(read(&file) == read(&converted));

    // As mlx-lm has it, beside the folder and in halves.
    let half = place.path("half.gguf");
    succeed("evenkeel convert", &[&folder, "--out", &half, "--dtype", "f16"]);
    assert!(read(&place.path("fused/ggml-model-f16.gguf")) == read(&half));
    let (blocks, other) = (place.path("blocks"), place.path("blocks.gguf"));
    fuse(&blocks, &["--export-gguf", "--gguf-path", "q8.gguf", "--quantize", "q8_0"]);
    fuse(&other, &["--quantize", "q8_0"]);
    assert!(read(&place.path("blocks/q8.gguf")) == read(&other));
    assert!(fs::metadata(place.path("blocks/model.safetensors")).is_ok());

    let out = place.path("out");
    refused(&out, &["--quantize", "q4_0"], &["Q4_0 in a folder", "--save-path"]);
    refused(&place.path("out.gguf"), &["--export-gguf"], &["--export-gguf", "--save-path"]);
    refused(&out, &["--export-gguf", "--gguf-path", "model.bin"], &["model.bin", ".gguf"]);
    refused(&file, &[], &["there is such a file", "--save-path", "--overwrite"]);
    assert!(fs::metadata(&out).is_err(), "something was made");
    refuse_usage(NAME, &["--model", &model, "--gguf-path", "a.gguf"]);
}
