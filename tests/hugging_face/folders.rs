//! Folders into parameters and back.

use std::collections::BTreeMap;

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Config, Export, Family, Folder};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::plan::Parameters;
use evenkeel::train::{Batch, Trainer};
use evenkeel::{Gpu, Precision, Result, WeightStorage};
use safetensors::Dtype;

use super::models::*;
use super::support::{self, block_on, tokens};
use super::tensors::{self, *};

pub type Files = BTreeMap<String, Vec<u8>>;

pub fn open(files: Files) -> Folder {
    Folder::from_files(files).unwrap_or_else(|error| panic!("{error}"))
}

/// Parameters of a model as it starts.
pub fn parameters_in(gpu: &Gpu, gpt: &GptConfig, storage: WeightStorage) -> Parameters {
    let mut graph = Graph::new(Phase::Evaluate).with_weights(storage);
    let tokens = graph.tokens("tokens", [1, 2], gpt.vocabulary);
    Gpt::new(gpt.clone()).expect("a model").logits(&mut graph, tokens);
    block_on(Parameters::new(gpu, &graph, 1)).expect("parameters")
}

pub fn parameters(gpu: &Gpu, gpt: &GptConfig) -> Parameters {
    parameters_in(gpu, gpt, WeightStorage::F32)
}

pub fn load(folder: &Folder, parameters: &Parameters) -> Result<()> {
    block_on(parameters.load(&mut folder.reader(|_| {})))
}

/// Loads a folder that has nothing wrong with it.
pub fn loaded(gpu: &Gpu, folder: &Folder) -> Parameters {
    let parameters = parameters(gpu, &folder.config().gpt);
    load(folder, &parameters).unwrap_or_else(|error| panic!("{error}"));
    parameters
}

pub fn values(parameters: &Parameters, name: &str) -> Vec<f32> {
    block_on(parameters.read(name)).expect("a parameter")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The bits of all parameters, by name.
pub fn all_bits(parameters: &Parameters) -> BTreeMap<String, Vec<u32>> {
    let names = parameters.names().map(|name| (name.to_owned(), bits(&values(parameters, name))));
    names.collect()
}

pub fn find<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    let found = tensors.iter().find(|tensor| tensor.name == name);
    found.unwrap_or_else(|| panic!("there is no {name}"))
}

/// Numbers by name. The sum with which a compensation is read makes one zero of both.
pub fn numbers(tensors: &[Tensor]) -> Vec<(&str, Vec<f32>)> {
    tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.values())).collect()
}

pub fn sorted(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

pub fn what_is_loaded_comes_back_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    for config in ALL {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let files = folder(config, &drawn(config, dtype));
            let folder = open(files.clone());
            let parameters = loaded(&gpu, &folder);
            let written = block_on(folder.export().to_files(&parameters)).expect("written");
            let family = folder.config().family();
            assert!(contents(&written) == contents(&files), "{family} in {dtype}");
            assert!(written["config.json"] == files["config.json"], "{family}");
        }
    }
}

pub fn rows_are_where_the_model_has_them() {
    let Some(gpu) = support::gpu() else { return };
    let tensors = drawn(LLAMA, Dtype::BF16);
    let parameters = loaded(&gpu, &open(folder(LLAMA, &tensors)));
    for (ours, theirs) in [
        ("token_embedding.weight", &["model.embed_tokens.weight"][..]),
        (
            "blocks.1.attention.qkv.weight",
            &[
                "model.layers.1.self_attn.q_proj.weight",
                "model.layers.1.self_attn.k_proj.weight",
                "model.layers.1.self_attn.v_proj.weight",
            ],
        ),
        (
            "blocks.0.mlp.gate_up.weight",
            &["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"],
        ),
        ("blocks.1.norm2.weight", &["model.layers.1.post_attention_layernorm.weight"]),
        ("norm.weight", &["model.norm.weight"]),
    ] {
        let joined: Vec<_> = theirs.iter().flat_map(|name| find(&tensors, name).values()).collect();
        assert!(bits(&values(&parameters, ours)) == bits(&joined), "{ours}");
    }
    let tensors = drawn(GEMMA2, Dtype::F32);
    let parameters = loaded(&gpu, &open(folder(GEMMA2, &tensors)));
    for (ours, theirs) in [
        ("norm1", "input_layernorm"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("norm2", "pre_feedforward_layernorm"),
        ("post_mlp_norm", "post_feedforward_layernorm"),
    ] {
        let theirs = find(&tensors, &format!("model.layers.2.{theirs}.weight")).values();
        let found = values(&parameters, &format!("blocks.2.{ours}.weight"));
        assert!(bits(&found) == bits(&theirs), "{ours}");
    }
    // A row for each input, where we have one for each output.
    let tensors = drawn(GPT2, Dtype::F32);
    let parameters = loaded(&gpu, &open(folder(GPT2, &tensors)));
    let theirs = find(&tensors, "transformer.h.1.attn.c_attn.weight").values();
    let ours = values(&parameters, "blocks.1.attention.qkv.weight");
    for output in 0..24 {
        for input in 0..8 {
            let (a, b) = (ours[output * 8 + input], theirs[input * 24 + output]);
            assert_eq!(a.to_bits(), b.to_bits(), "output {output}, input {input}");
        }
    }
}

pub fn every_storage_of_weights_is_loaded() {
    let Some(gpu) = support::gpu() else { return };
    let tensors = drawn(QWEN2, Dtype::BF16);
    let folder = open(folder(QWEN2, &tensors));
    for storage in WeightStorage::ALL {
        // What is in bf16 fits in each of them.
        let parameters = parameters_in(&gpu, &folder.config().gpt, storage);
        load(&folder, &parameters).expect("loaded");
        let files = block_on(folder.export().to_files(&parameters)).expect("written");
        assert!(numbers(&contents(&files)) == numbers(&sorted(tensors.clone())), "{storage}");
    }
    // The largest f32 is not in bf16.
    let name = "model.norm.weight";
    let mut tensors = drawn(QWEN2, Dtype::F32);
    let index = tensors.iter().position(|tensor| tensor.name == name).expect("there");
    tensors[index] = Tensor::of(name, &[16], &[f32::MAX; 16]);
    let folder = open(tensors::folder(QWEN2, &tensors));
    let parameters = parameters_in(&gpu, &folder.config().gpt, WeightStorage::Bf16Stochastic);
    let error = load(&folder, &parameters).expect_err("too large").to_string();
    assert!(error.contains(name) && error.contains("stochastic"), "{error}");
    loaded(&gpu, &folder);
}

pub fn several_files_are_one_model() {
    let Some(gpu) = support::gpu() else { return };
    let tensors = drawn(MISTRAL, Dtype::F16);
    let one = open(folder(MISTRAL, &tensors));
    let parameters = loaded(&gpu, &one);
    let export = one.export().shard_bytes(1000);
    let files = block_on(export.to_files(&parameters)).expect("written");
    assert!(files.len() > 4, "{:?}", files.keys());
    for (name, bytes) in &files {
        // No file has more numbers than it may, unless it is one tensor.
        let is_shard = name.ends_with(".safetensors");
        let tensors = if is_shard {
            contents(&BTreeMap::from([(name.clone(), bytes.clone())]))
        } else {
            vec![]
        };
        let sum: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        assert!(sum <= 1000 || tensors.len() == 1, "{name} has {sum} bytes");
    }
    let several = open(files.clone());
    assert!(all_bits(&loaded(&gpu, &several)) == all_bits(&parameters));
    assert!(contents(&files) == sorted(tensors));

    let error = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        Folder::from_files(files).expect_err("they do not fit").to_string()
    };
    let index = "model.safetensors.index.json";
    let first = files.keys().find(|name| name.starts_with("model-00001")).expect("a shard").clone();
    let missing = error(&|files| {
        files.remove(&first);
    });
    assert!(missing.contains(&first) && missing.contains("missing"), "{missing}");
    let rewrite = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        error(&move |files| {
            let text = String::from_utf8(files[index].clone()).expect("text");
            assert!(text.contains(&from), "{from} is not in {text}");
            files.insert(index.to_owned(), text.replacen(&from, &to, 1).into_bytes());
        })
    };
    let renamed = rewrite("\"model.norm.weight\"", "\"model.norm.weights\"");
    assert!(renamed.contains("model.norm.weights is in no file"), "{renamed}");
    assert!(renamed.contains("model.norm.weight in model-"), "{renamed}");
    let outside = rewrite("\"model-00001", "\"../model-00001");
    assert!(outside.contains("no file of the folder"), "{outside}");
}

pub fn what_follows_from_the_configuration_is_passed_over() {
    let Some(gpu) = support::gpu() else { return };
    // A tied head may be there once more, if it is the same.
    let mut tensors = drawn(LLAMA, Dtype::BF16);
    let expected = sorted(tensors.clone());
    let embedding = find(&tensors, "model.embed_tokens.weight").clone();
    let head = Tensor { name: "lm_head.weight".to_owned(), ..embedding };
    tensors.push(head.clone());
    let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq";
    tensors.push(Tensor::of(frequencies, &[4], &[1.0, 0.1, 0.01, 0.001]));
    let llama = open(folder(LLAMA, &tensors));
    let parameters = loaded(&gpu, &llama);
    let written = block_on(llama.export().to_files(&parameters)).expect("written");
    assert!(contents(&written) == expected);
    let mut other = head.clone();
    other.bytes[20] ^= 1;
    tensors.retain(|tensor| tensor.name != head.name);
    tensors.push(other);
    let error = load(&open(folder(LLAMA, &tensors)), &parameters).expect_err("two heads");
    let error = error.to_string();
    assert!(error.contains("lm_head.weight is not the same"), "{error}");

    // GPT-2 as it was first published: without a prefix, and with masks.
    let mut tensors = drawn(GPT2, Dtype::F32);
    for tensor in &mut tensors {
        tensor.name = tensor.name.replacen("transformer.", "", 1);
    }
    let expected = sorted(tensors.clone());
    tensors.push(Tensor::of("h.0.attn.bias", &[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]));
    let gpt2 = open(folder(GPT2, &tensors));
    let written = block_on(gpt2.export().to_files(&loaded(&gpu, &gpt2))).expect("written");
    assert!(contents(&written) == expected);

    // The text of a model of text and images becomes a model of its own.
    for prefix in ["language_model.model.", "model.language_model."] {
        let expected = sorted(drawn(GEMMA3_WITH_IMAGES, Dtype::BF16));
        let mut tensors = expected.clone();
        for tensor in &mut tensors {
            tensor.name = tensor.name.replacen("model.", prefix, 1);
        }
        let image =
            if prefix.starts_with("model.") { "model.vision_tower" } else { "vision_tower" };
        tensors.push(Tensor::of(&format!("{image}.weight"), &[2], &[1.0; 2]));
        let config = GEMMA3_WITH_IMAGES.replacen(
            "\"head_dim\"",
            "\"max_position_embeddings\": 8, \"head_dim\"",
            1,
        );
        let both = open(folder(&config, &tensors));
        let written = block_on(both.export().to_files(&loaded(&gpu, &both))).expect("written");
        assert!(contents(&written) == expected, "{prefix}");
        let again = open(written);
        assert_eq!(again.config().family(), Family::Gemma3);
        loaded(&gpu, &again);
    }
}

pub fn types_are_chosen() {
    let Some(gpu) = support::gpu() else { return };
    let mut tensors = drawn(SMOLLM, Dtype::BF16);
    let norm = "model.norm.weight";
    let index = tensors.iter().position(|tensor| tensor.name == norm).expect("there");
    tensors[index] = Tensor::drawn(norm, &[16], Dtype::F32, 3);
    let folder = open(folder(SMOLLM, &tensors));
    let parameters = loaded(&gpu, &folder);
    // Each as it came.
    let files = block_on(folder.export().to_files(&parameters)).expect("written");
    assert!(contents(&files) == sorted(tensors.clone()));
    // All in one.
    let export = folder.export().precision(Precision::F32);
    let files = block_on(export.to_files(&parameters)).expect("written");
    for tensor in contents(&files) {
        assert_eq!(tensor.dtype, Dtype::F32);
        let before = find(&tensors, &tensor.name).values();
        assert!(bits(&tensor.values()) == bits(&before), "{}", tensor.name);
    }
    let config = String::from_utf8(files["config.json"].clone()).expect("text");
    assert!(config.contains("\"torch_dtype\": \"float32\""), "{config}");
    // bf16 has numbers that f16 has not.
    let export = folder.export().precision(Precision::F16);
    let error = block_on(export.to_files(&parameters)).expect_err("too large").to_string();
    assert!(error.contains("not finite in f16"), "{error}");
}

pub fn models_of_no_folder_are_written() {
    let Some(gpu) = support::gpu() else { return };
    let gpt = GptConfig { hidden: 12, ..GptConfig::llama(11, 8, 1, [2, 1], 16) };
    let first = parameters(&gpu, &gpt);
    let config = Config::new(Family::Llama, gpt.clone()).expect("a Llama");
    let files = block_on(Export::new(config.clone(), Precision::F32).to_files(&first));
    let folder = open(files.expect("written"));
    assert_eq!(folder.config().gpt, gpt);
    assert!(all_bits(&loaded(&gpu, &folder)) == all_bits(&first));
    // Another model's parameters are named.
    let other = parameters(&gpu, &GptConfig { layers: 2, tied_head: true, ..gpt });
    let error = block_on(Export::new(config, Precision::F32).to_files(&other));
    let error = error.expect_err("another model").to_string();
    assert!(error.contains("no parameter head.weight"), "{error}");
    assert!(error.contains("no parameter blocks.1.norm1.weight"), "{error}");
}

fn language_model(config: &Config) -> LanguageModel {
    let gpt = Gpt::new(config.gpt.clone()).expect("a model");
    LanguageModel { gpt, batch: 2, time: 8 }
}

pub fn a_run_begins_anew_with_what_was_loaded() {
    let Some(gpu) = support::gpu() else { return };
    let shrink = |tensor: &Tensor| {
        let count: usize = tensor.shape.iter().product();
        let values: Vec<_> = support::values(5, count).iter().map(|x| 0.2 * x).collect();
        Tensor::of(&tensor.name, &tensor.shape, &values)
    };
    let tensors: Vec<_> = drawn(SMOLLM, Dtype::F32).iter().map(shrink).collect();
    let folder = open(folder(SMOLLM, &tensors));
    let batch = |seed| {
        let ids = |seed| tokens(seed, 16, 11);
        Batch::new().with("tokens", ids(seed)).with("targets", ids(seed + 1))
    };
    let new = || {
        let builder = Trainer::builder(language_model(folder.config())).seed(2);
        block_on(builder.build(&gpu)).expect("a trainer")
    };
    let (mut used, mut fresh) = (new(), new());
    for seed in 0..2 {
        block_on(used.step(&batch(seed))).expect("a step");
    }
    let mut seen = Vec::new();
    let mut reader = folder.reader(|at| seen.push((at.bytes, at.total)));
    block_on(used.load_weights(&mut reader)).expect("loaded");
    drop(reader);
    let twice = 2 * folder.bytes();
    assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == twice), "{seen:?}");
    assert_eq!(seen.last(), Some(&(twice, twice)));
    block_on(fresh.load_weights(&mut folder.reader(|_| {}))).expect("loaded");
    assert_eq!(used.steps(), 0);
    for seed in 4..6 {
        for trainer in [&mut used, &mut fresh] {
            block_on(trainer.step(&batch(seed))).expect("a step");
        }
    }
    let [used, fresh] = [&used, &fresh].map(|trainer| block_on(trainer.committed_bytes()));
    assert!(used.expect("bytes") == fresh.expect("bytes"));
}
