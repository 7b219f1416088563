//! The tiny models of the Hugging Face tests as llama.cpp's convert_hf_to_gguf.py writes them.

use evenkeel::gguf::File;

use super::models::{self, *};
use super::support;
use super::tensors;
use super::writer::{Encoded, Tensor, Writer, f32, text, u32};

/// [`models::GEMMA2`] with the only scale of attention that a GGUF file of this size can have.
pub fn gemma2() -> String {
    let from = "\"query_pre_attn_scalar\": 9";
    assert!(GEMMA2.contains(from));
    GEMMA2.replace(from, "\"query_pre_attn_scalar\": 16")
}

/// The text of `config.json` for one of [`models::ALL`].
pub fn config_of(model: &str) -> String {
    if model == GEMMA2 { gemma2() } else { model.to_owned() }
}

/// Moderate numbers, without a negative zero, of which 1 more is exact.
pub fn moderate(model: &str) -> Vec<tensors::Tensor> {
    let tensor = |(seed, (name, shape)): (u64, Named)| {
        let drawn = support::values(seed, shape.iter().product());
        let numbers: Vec<_> =
            drawn.into_iter().map(|x| ((768.0 * x).round() + 0.0) / 1024.0).collect();
        tensors::Tensor::of(&name, &shape, &numbers)
    };
    (20..).zip(models::tensors(model)).map(tensor).collect()
}

/// What the metadata of a model say, by eye.
pub fn metadata(model: &str) -> Vec<(String, Encoded)> {
    let (architecture, eps, own): (&str, f32, Vec<(&str, Encoded)>) = match model {
        GPT2 => ("gpt2", 1e-5, vec![("attention.head_count_kv", u32(2))]),
        LLAMA => ("llama", 1e-5, vec![("rope.freq_base", f32(500_000.0))]),
        SMOLLM => ("llama", 1e-5, vec![("rope.freq_base", f32(100_000.0))]),
        MISTRAL => ("llama", 1e-5, vec![("attention.sliding_window", u32(6))]),
        QWEN2 => ("qwen2", 1e-6, vec![("rope.freq_base", f32(1e6))]),
        QWEN3 => ("qwen3", 1e-6, vec![("rope.freq_base", f32(1e6))]),
        GEMMA2 => (
            "gemma2",
            1e-6,
            vec![
                ("attn_logit_softcapping", f32(50.0)),
                ("final_logit_softcapping", f32(30.0)),
                ("attention.sliding_window", u32(4)),
            ],
        ),
        GEMMA3 => (
            "gemma3",
            1e-6,
            vec![
                ("rope.freq_base", f32(1e6)),
                ("rope.scaling.type", text("linear")),
                ("rope.scaling.factor", f32(8.0)),
                ("attention.sliding_window", u32(4)),
                ("attention.sliding_window_pattern", u32(2)),
            ],
        ),
        _ => panic!("not one of these"),
    };
    let (layers, context, width, hidden) = match model {
        GPT2 => (2, 16, 8, 32),
        LLAMA => (2, 64, 16, 12),
        SMOLLM => (1, 32, 16, 12),
        GEMMA2 => (3, 32, 16, 12),
        _ => (2, 32, 16, 12),
    };
    let norm = if model == GPT2 { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    let mut values = vec![("general.architecture".to_owned(), text(architecture))];
    let mut push = |name: &str, value| values.push((format!("{architecture}.{name}"), value));
    push("block_count", u32(layers));
    push("context_length", u32(context));
    push("embedding_length", u32(width));
    push("feed_forward_length", u32(hidden));
    push("attention.head_count", u32(2));
    push(&format!("attention.{norm}"), f32(eps));
    own.into_iter().for_each(|(name, value)| push(name, value));
    if model != GPT2 {
        push("attention.head_count_kv", u32(1));
    }
    if architecture == "llama" {
        push("rope.dimension_count", u32(8));
        push("vocab_size", u32(11));
    }
    if [QWEN3, GEMMA2, GEMMA3].contains(&model) {
        push("attention.key_length", u32(16));
        push("attention.value_length", u32(16));
    }
    values
}

/// A name in llama.cpp for one in transformers.
fn name_of(theirs: &str, is_gemma: bool) -> String {
    let norms: [(&str, &str); 2] = if is_gemma {
        [
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
        ]
    } else {
        [("post_attention_layernorm", "ffn_norm"), ("ln_2", "ffn_norm")]
    };
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("model.norm", "output_norm"),
        ("transformer.ln_f", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("transformer.h.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("ln_1", "attn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ];
    let all = names.into_iter().chain(norms);
    all.fold(theirs.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// `weights.reshape(heads, 2, d / 2, ..).swapaxes(1, 2)`: halves of a head become pairs.
pub fn permuted(numbers: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (columns, size) = (numbers.len() / rows, rows / heads);
    let mut permuted = Vec::new();
    for head in 0..heads {
        for pair in 0..size / 2 {
            for half in 0..2 {
                let row = head * size + half * (size / 2) + pair;
                permuted.extend(&numbers[row * columns..(row + 1) * columns]);
            }
        }
    }
    permuted
}

fn transposed(numbers: &[f32], rows: usize) -> Vec<f32> {
    let columns = numbers.len() / rows;
    let column = |column| (0..rows).map(move |row| row * columns + column);
    (0..columns).flat_map(column).map(|index| numbers[index]).collect()
}

fn tensor(model: &str, theirs: &tensors::Tensor) -> Tensor {
    let is_gemma = [GEMMA2, GEMMA3].contains(&model);
    let is_llama = [LLAMA, SMOLLM, MISTRAL].contains(&model);
    let is = |part: &str| theirs.name.contains(part);
    let (mut numbers, mut shape) = (theirs.values(), theirs.shape.clone());
    if is_llama && (is("q_proj") || is("k_proj")) {
        let heads = if is("q_proj") { 2 } else { 1 };
        numbers = permuted(&numbers, heads, shape[0]);
    }
    if is_gemma && theirs.name.ends_with("norm.weight") {
        numbers.iter_mut().for_each(|number| *number += 1.0);
    }
    if is(".c_") && is(".weight") {
        numbers = transposed(&numbers, shape[0]);
        shape.reverse();
    }
    let shape: Vec<_> = shape.into_iter().map(|size| size as u64).collect();
    Tensor::f32(&name_of(&theirs.name, is_gemma), &shape, &numbers)
}

/// `rope_freqs.weight` as the converter computes it for [`models::LLAMA`].
fn factors() -> Tensor {
    let factor = |pair: i32| {
        let frequency = 500_000f64.powf(-2.0 * f64::from(pair) / 8.0);
        let wavelength = std::f64::consts::TAU / frequency;
        if wavelength < 16.0 / 4.0 {
            1.0
        } else if wavelength > 16.0 {
            32.0
        } else {
            let smooth = (16.0 / wavelength - 1.0) / (4.0 - 1.0);
            1.0 / ((1.0 - smooth) / 32.0 + smooth)
        }
    };
    let factors: Vec<_> = (0..4).map(|pair| factor(pair) as f32).collect();
    Tensor::f32("rope_freqs.weight", &[4], &factors)
}

/// A model with these tensors.
pub fn converted(model: &str, tensors: &[tensors::Tensor]) -> Writer {
    let mut converted: Vec<_> = tensors.iter().map(|theirs| tensor(model, theirs)).collect();
    if model == LLAMA {
        converted.push(factors());
    }
    Writer::new(metadata(model), converted)
}

pub fn open(writer: &Writer) -> File {
    File::from_bytes("a.gguf", writer.bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// What is wrong with a file.
pub fn error(writer: &Writer) -> String {
    error_of(writer.bytes())
}

pub fn error_of(bytes: Vec<u8>) -> String {
    let error = File::from_bytes("a.gguf", bytes).expect_err("it is wrong").to_string();
    assert!(error.starts_with("a.gguf: "), "{error}");
    error
}
