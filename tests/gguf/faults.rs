//! Blocks on their way to parameters, and what is wrong with tensors.

use evenkeel::gguf::{File, Format};

use super::converted::{self, converted, moderate, open};
use super::folders::{all_bits, parameters, values};
use super::models::SMOLLM;
use super::same_models::{load, loaded};
use super::support::{self, block_on};
use super::writer::{Tensor, Writer, f32, text, u32};

/// A model of the architecture `llama` whose matrices are in blocks: width 64, 4 heads and 2 of keys
/// and values, hidden 32, 40 tokens.
fn blocks(format: Format) -> Writer {
    let mut values = vec![("general.architecture".to_owned(), text("llama"))];
    for (name, count) in [
        ("block_count", 1),
        ("context_length", 16),
        ("embedding_length", 64),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        values.push((format!("llama.{name}"), u32(count)));
    }
    values.push(("llama.attention.layer_norm_rms_epsilon".to_owned(), f32(1e-5)));
    let mut tensors = Vec::new();
    for (seed, (name, shape)) in (1..).zip([
        ("token_embd", [40, 64]),
        ("blk.0.attn_q", [64, 64]),
        ("blk.0.attn_k", [32, 64]),
        ("blk.0.attn_v", [32, 64]),
        ("blk.0.attn_output", [64, 64]),
        ("blk.0.ffn_gate", [32, 64]),
        ("blk.0.ffn_up", [32, 64]),
        ("blk.0.ffn_down", [64, 32]),
    ]) {
        tensors.push(Tensor {
            name: format!("{name}.weight"),
            shape: shape.to_vec(),
            code: format.code(),
            bytes: drawn(format, (shape[0] * shape[1]) as usize, seed),
        });
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        tensors.push(Tensor::f32(&format!("{name}.weight"), &[64], &[0.5; 64]));
    }
    Writer::new(values, tensors)
}

/// Blocks of drawn bits whose first f16, and second, are moderate.
fn drawn(format: Format, count: usize, seed: u64) -> Vec<u8> {
    let bytes = count / format.block_elements() * format.block_bytes();
    let unit = support::values(seed, bytes).into_iter();
    let mut bytes: Vec<_> = unit.map(|x| ((x + 1.0) * 127.9) as u8).collect();
    for block in bytes.chunks_mut(format.block_bytes()) {
        // Exponents around that of 1/1024.
        for high in block.iter_mut().take(4).skip(1).step_by(2) {
            *high = 0x10 | *high & 0x83;
        }
    }
    bytes
}

/// What the converter does, undone over whole tensors: halves in the place of pairs.
fn apart(numbers: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let places: Vec<_> = (0..numbers.len()).map(|index| index as f32).collect();
    let permuted = converted::permuted(&places, heads, rows);
    let mut apart = vec![0.0; numbers.len()];
    for (number, place) in numbers.iter().zip(permuted) {
        apart[place as usize] = *number;
    }
    apart
}

pub fn blocks_are_loaded_row_by_row() {
    let Some(gpu) = support::gpu() else { return };
    for format in [Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4_1] {
        let writer = blocks(format);
        let file = open(&writer);
        let mut seen = Vec::new();
        let loaded = parameters(&gpu, &file.config().gpt);
        let mut reader = file.reader(|at| seen.push((at.bytes, at.total)));
        block_on(loaded.load(&mut reader)).expect("loaded");
        drop(reader);
        let total: u64 = 2 * file.tensors().values().map(|tensor| tensor.bytes()).sum::<u64>();
        assert!(seen.is_sorted() && seen.iter().all(|&(_, all)| all == total), "{seen:?}");
        assert_eq!(seen.last(), Some(&(total, total)), "{format}");

        let decoded = |name: &str| {
            let found = writer.tensors.iter().find(|tensor| tensor.name == name).expect("there");
            format.decode(&found.bytes)
        };
        let [q, k, v] = ["q", "k", "v"].map(|part| decoded(&format!("blk.0.attn_{part}.weight")));
        let qkv = [apart(&q, 4, 64), apart(&k, 2, 32), v].concat();
        assert!(values(&loaded, "blocks.0.attention.qkv.weight") == qkv, "{format}");
        let [gate, up] = ["gate", "up"].map(|part| decoded(&format!("blk.0.ffn_{part}.weight")));
        assert!(values(&loaded, "blocks.0.mlp.gate_up.weight") == [gate, up].concat(), "{format}");
        for (ours, theirs) in [
            ("token_embedding", "token_embd"),
            ("blocks.0.attention.projection", "blk.0.attn_output"),
            ("blocks.0.mlp.down", "blk.0.ffn_down"),
        ] {
            let found = values(&loaded, &format!("{ours}.weight"));
            assert!(found == decoded(&format!("{theirs}.weight")), "{format}: {ours}");
        }
    }
}

pub fn all_that_is_wrong_is_named_and_nothing_changes() {
    let Some(gpu) = support::gpu() else { return };
    let good = converted(SMOLLM, &moderate(SMOLLM));
    let parameters = parameters(&gpu, &open(&good).config().gpt);
    let before = all_bits(&parameters);
    let (up, down) = ("blk.0.ffn_up.weight", "blk.0.ffn_down.weight");
    let with = |change: &dyn Fn(&mut Writer)| {
        let mut writer = good.clone();
        change(&mut writer);
        open(&writer)
    };
    let without = |name: &'static str| with(&move |w| w.tensors.retain(|t| t.name != name));
    let spoiled = |value: f32| {
        with(&move |writer| {
            writer.tensor(up).bytes[28..32].copy_from_slice(&value.to_le_bytes());
        })
    };
    let extra = with(&|writer| {
        writer.tensors.retain(|tensor| tensor.name != down);
        writer.tensors.push(Tensor::f32("blk.0.ffn_up.scale", &[1], &[1.0]));
    });
    // Not Llama's, so that they are not passed over.
    let mut qwen = converted(super::models::QWEN2, &moderate(super::models::QWEN2));
    qwen.tensors.push(Tensor::f32("rope_freqs.weight", &[4], &[1.0; 4]));
    let qwen = open(&qwen);
    let cases: [(File, &[&str]); 6] = [
        (without(up), &[up, "[12, 16] is missing"]),
        (extra, &["blk.0.ffn_down.weight [16, 12] is missing", "ffn_up.scale [1] is not known"]),
        (
            with(&|writer| writer.tensor(up).shape = vec![16, 12]),
            &[up, "has the shape [16, 12], and the model wants [12, 16]"],
        ),
        (without("output.weight"), &["output.weight [11, 16] is missing"]),
        (spoiled(f32::NAN), &[up, "holds NaN at index 7"]),
        (spoiled(f32::NEG_INFINITY), &[up, "holds -inf at index 7"]),
    ];
    for (file, messages) in cases {
        let error = load(&file, &parameters).expect_err("it is wrong").to_string();
        assert!(error.starts_with("a.gguf: "), "{error}");
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
        assert!(all_bits(&parameters) == before, "changed after: {error}");
    }
    let of_qwen = super::folders::parameters(&gpu, &qwen.config().gpt);
    let error = load(&qwen, &of_qwen).expect_err("not Qwen's").to_string();
    assert!(error.contains("rope_freqs.weight [4] is not known"), "{error}");
    // A scale that is not finite makes all numbers of its block so.
    let mut writer = blocks(Format::Q4_1);
    writer.tensor("blk.0.ffn_gate.weight").bytes[20..22].copy_from_slice(&[0, 0x7c]);
    let file = open(&writer);
    let of_blocks = loaded(&gpu, &open(&blocks(Format::Q4_1)));
    let error = load(&file, &of_blocks).expect_err("Inf").to_string();
    assert!(error.contains("blk.0.ffn_gate.weight holds"), "{error}");
    assert!(error.contains("at index 32, the first of 32 such"), "{error}");

    load(&open(&good), &parameters).expect("nothing is wrong");
    assert!(all_bits(&parameters) != before);
}
