//! A model so small that it is made here, with a tokenizer and a chat template, and lines to learn.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Config, Export, Family};
use evenkeel::nn::{Gpt, GptConfig};
use evenkeel::plan::Parameters;
use evenkeel::{Gpu, Precision};
use pollster::block_on;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::programs::Place;

#[path = "../gguf/writer.rs"]
#[allow(dead_code, reason = "other tests write more")]
mod writer;

const TOKENIZER: &str = include_str!("../fixtures/text/gpt2/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../fixtures/text/gpt2/tokenizer_config.json");
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + \
                        message.content + '<|im_end|>\n' }}{% endfor %}{% if \
                        add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
pub const QUESTIONS: [[&str; 2]; 2] =
    [["What keeps the boat even?", "The keel."], ["Who clips the gradients?", "A trainer."]];

pub fn config() -> Config {
    let gpt =
        GptConfig { hidden: 64, tied_head: true, ..GptConfig::llama(520, 128, 1, [2, 1], 32) };
    Config::new(Family::Llama, gpt).expect("a Llama")
}

/// Writes a folder with a model that knows nothing, whose tokens differ enough to be told apart.
pub fn write_model(gpu: &Gpu, place: &Place) -> String {
    let config = config();
    let mut graph = Graph::new(Phase::Evaluate);
    let tokens = graph.tokens("tokens", [1, 2], config.gpt.vocabulary);
    Gpt::new(config.gpt.clone()).expect("a model").logits(&mut graph, tokens);
    let parameters = block_on(Parameters::new(gpu, &graph, 3)).expect("parameters");
    let table = block_on(parameters.read("token_embedding.weight")).expect("a table");
    let table: Vec<_> = table.iter().map(|x| 8.0 * x).collect();
    parameters.write("token_embedding.weight", &table).expect("written");
    let folder = place.path("model");
    block_on(Export::new(config, Precision::F32).save(&parameters, &folder)).expect("saved");
    let mut settings: Value = serde_json::from_str(TOKENIZER_CONFIG).expect("JSON");
    settings["chat_template"] = TEMPLATE.into();
    place.write("model/tokenizer.json", TOKENIZER.as_bytes());
    place.write("model/tokenizer_config.json", settings.to_string().as_bytes());
    folder
}

/// The same model as a file of llama.cpp's. What its converter does to the order of rows makes
/// another model of one that knows nothing, and is left out.
pub fn write_gguf(place: &Place) -> String {
    use writer::{Tensor, Writer, f32, i32, list, text, texts, u32};

    let mut values = vec![("general.architecture".to_owned(), text("llama"))];
    let mut push = |name: &str, value| values.push((name.to_owned(), value));
    for (name, value) in [
        ("block_count", 1),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 16),
        ("vocab_size", 520),
    ] {
        push(&format!("llama.{name}"), u32(value));
    }
    push("llama.attention.layer_norm_rms_epsilon", f32(1e-5));
    push("llama.rope.freq_base", f32(10_000.0));
    let tokenizer: Value = serde_json::from_str(TOKENIZER).expect("JSON");
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
    let tokens: BTreeMap<_, _> =
        vocabulary.iter().map(|(token, id)| (id.as_u64(), token.as_str())).collect();
    let kind = |id: u32| i32(if id < 3 { 3 } else { 1 });
    let kinds: Vec<_> = (0..tokens.len() as u32).map(kind).collect();
    let merges = tokenizer["model"]["merges"].as_array().expect("a list").iter();
    let part = |pair: &Value, at: usize| pair[at].as_str().expect("a text").to_owned();
    let merges: Vec<_> = merges.map(|pair| part(pair, 0) + " " + &part(pair, 1)).collect();
    let merges: Vec<_> = merges.iter().map(String::as_str).collect();
    push("tokenizer.ggml.model", text("gpt2"));
    push("tokenizer.ggml.pre", text("smollm"));
    push("tokenizer.ggml.tokens", texts(&tokens.into_values().collect::<Vec<_>>()));
    push("tokenizer.ggml.token_type", list(5, &kinds));
    push("tokenizer.ggml.merges", texts(&merges));
    push("tokenizer.ggml.bos_token_id", u32(1));
    push("tokenizer.ggml.eos_token_id", u32(2));
    push("tokenizer.chat_template", text(TEMPLATE));
    let file = fs::read(place.path("model/model.safetensors")).expect("read");
    let tensors = SafeTensors::deserialize(&file).expect("tensors");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let shape: Vec<_> = view.shape().iter().map(|&size| size as u64).collect();
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        Tensor::f32(&name_in_gguf(&name), &shape, &numbers)
    };
    let tensors = tensors.tensors().into_iter().map(tensor).collect();
    place.write("model.gguf", &Writer::new(values, tensors).bytes())
}

fn name_in_gguf(name: &str) -> String {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    names.into_iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Writes so many lines with the questions and their answers in turn.
pub fn write_lines(place: &Place, count: usize) -> String {
    let line = |[question, answer]: [&str; 2]| {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let messages = [message("user", question), message("assistant", answer)];
        format!("{}\n", json!({ "messages": messages }))
    };
    let lines: String = QUESTIONS.into_iter().cycle().take(count).map(line).collect();
    place.write("lines.jsonl", lines.as_bytes())
}
