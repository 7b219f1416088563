//! Blocks of a file that stay as they are, and those that are made of others.

use evenkeel::gguf::Format;
use evenkeel::kernel::BlockFormat;
use evenkeel::nn::GptConfig;
use evenkeel::plan::Parameters;

use super::blocks::bits;
use super::converted::{open, permuted};
use super::folders::{self, values};
use super::same_models::load;
use super::support::{self, block_on};
use super::writer::{Encoded, Tensor, Writer, f32, text, u32};

/// By tests/fixtures/make_gguf.py.
const QUANTIZED: &[u8] = include_bytes!("../fixtures/gguf_quantized.gguf");

pub fn numbers_become_the_blocks_of_ggml() {
    let file = evenkeel::gguf::File::from_bytes("gguf_quantized.gguf", QUANTIZED.to_vec());
    let file = file.unwrap_or_else(|error| panic!("{error}"));
    let numbers = file.numbers("values", 0..1280).expect("in the file");
    for format in BlockFormat::ALL {
        let blocks = format.encode(&numbers);
        let theirs = file.numbers(format.name(), 0..1280).expect("in the file");
        for (index, (x, y)) in format.decode(&blocks).iter().zip(&theirs).enumerate() {
            assert_eq!(x.to_bits(), y.to_bits(), "{format}, number {index}");
        }
        assert_eq!(blocks.len(), 40 * format.bytes());
        let is_there = QUANTIZED.windows(blocks.len()).any(|window| window == blocks);
        assert!(is_there, "{format}: the same bytes");
    }
}

/// A Llama of one block whose rows are 32 long, with two query heads of 16 columns to one for keys.
fn metadata() -> Vec<(String, Encoded)> {
    let mut values = vec![("general.architecture".to_owned(), text("llama"))];
    for (name, value) in [
        ("block_count", 1),
        ("context_length", 32),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 16),
        ("vocab_size", 11),
    ] {
        values.push((format!("llama.{name}"), u32(value)));
    }
    values.push(("llama.attention.layer_norm_rms_epsilon".to_owned(), f32(1e-5)));
    values.push(("llama.rope.freq_base".to_owned(), f32(10_000.0)));
    values
}

/// Blocks of drawn q, with scales of both signs that differ from block to block.
fn blocks(format: Format, seed: u64, count: usize) -> Vec<u8> {
    let scales = if format == Format::Q4_1 { 2 } else { 1 };
    let mut bytes = Vec::new();
    for block in 0..count / 32 {
        for scale in 0..scales {
            let magnitude = 0x2200 + 37 * (block + scale) as u16 % 512;
            let sign = (block as u16 % 2) << 15;
            bytes.extend((sign | magnitude).to_le_bytes());
        }
        let q = support::tokens(seed + block as u64, format.block_bytes() - 2 * scales, 256);
        bytes.extend(q.into_iter().map(|byte| byte as u8));
    }
    bytes
}

/// Tensors of every kind of block, and the formats that they have.
fn writer() -> Writer {
    let formats = [
        ("token_embd", 11, 32, Format::Q4_1),
        ("blk.0.attn_q", 32, 32, Format::Q4_1),
        ("blk.0.attn_k", 16, 32, Format::Q4_0),
        ("blk.0.attn_v", 16, 32, Format::Q8_0),
        ("blk.0.attn_output", 32, 32, Format::Q4_0),
        ("blk.0.ffn_gate", 64, 32, Format::Q8_0),
        ("blk.0.ffn_up", 64, 32, Format::Q4_1),
        ("blk.0.ffn_down", 32, 64, Format::Q8_0),
    ];
    let in_blocks = (1..).zip(formats).map(|(seed, (name, rows, columns, format))| Tensor {
        name: format!("{name}.weight"),
        shape: vec![rows, columns],
        code: format.code(),
        bytes: blocks(format, 1000 * seed, (rows * columns) as usize),
    });
    let norms = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"];
    let norms = (50..).zip(norms).map(|(seed, name)| {
        Tensor::f32(&format!("{name}.weight"), &[32], &support::values(seed, 32))
    });
    Writer::new(metadata(), in_blocks.chain(norms).collect())
}

/// Rows of bytes in the order that the parameter has them.
fn apart(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    // The inverse of the converter's order, found by numbers of rows.
    let order = permuted(&(0..rows).map(|row| row as f32).collect::<Vec<_>>(), heads, rows);
    let row = bytes.len() / rows;
    let mut apart = vec![0; bytes.len()];
    for (theirs, &ours) in order.iter().enumerate() {
        apart[ours as usize * row..][..row].copy_from_slice(&bytes[theirs * row..][..row]);
    }
    apart
}

/// What each parameter is made of: tensors, and heads whose rows lie in pairs.
const MADE: &[(&str, &[(&str, usize)])] = &[
    ("token_embedding.weight", &[("token_embd", 0)]),
    (
        "blocks.0.attention.qkv.weight",
        &[("blk.0.attn_q", 2), ("blk.0.attn_k", 1), ("blk.0.attn_v", 0)],
    ),
    ("blocks.0.attention.projection.weight", &[("blk.0.attn_output", 0)]),
    ("blocks.0.mlp.gate_up.weight", &[("blk.0.ffn_gate", 0), ("blk.0.ffn_up", 0)]),
    ("blocks.0.mlp.down.weight", &[("blk.0.ffn_down", 0)]),
];

pub fn blocks_of_the_format_stay_and_others_are_made_of_their_numbers() {
    let Some(gpu) = support::gpu() else { return };
    let mut writer = writer();
    let file = open(&writer);
    let gpt = file.config().gpt.clone();
    let in_f32 = folders::parameters(&gpu, &gpt);
    load(&file, &in_f32).expect("loaded");
    for format in BlockFormat::ALL {
        let gpt = GptConfig { base_format: Some(format), ..gpt.clone() };
        let parameters: Parameters = folders::parameters(&gpu, &gpt);
        load(&file, &parameters).unwrap_or_else(|error| panic!("{error}"));
        let mut kept = 0;
        for (name, parts) in MADE {
            let mut expected = Vec::new();
            for &(tensor, heads) in *parts {
                let Tensor { bytes, shape, code, .. } =
                    writer.tensor(&format!("{tensor}.weight")).clone();
                let bytes = if heads > 0 { apart(&bytes, heads, shape[0] as usize) } else { bytes };
                let stored = Format::of_code(code).expect("known");
                if stored.name() == format.name() {
                    expected.extend(bytes);
                    kept += 1;
                } else {
                    expected.extend(format.encode(&stored.decode(&bytes)));
                }
            }
            let (_, found) = block_on(parameters.read_blocks(name)).expect("in blocks");
            assert!(found == expected, "{name} in {format}");
        }
        assert!(kept >= 2, "{format}");
        // Kept as they are, they are the numbers of the file.
        for name in ["norm.weight", "blocks.0.norm1.weight"] {
            assert_eq!(bits(&values(&parameters, name)), bits(&values(&in_f32, name)));
        }
        let name = match format {
            BlockFormat::Q8_0 => "blocks.0.mlp.down.weight",
            BlockFormat::Q4_0 => "blocks.0.attention.projection.weight",
            BlockFormat::Q4_1 => "token_embedding.weight",
        };
        assert_eq!(bits(&values(&parameters, name)), bits(&values(&in_f32, name)), "{format}");
    }
    // Beyond what a block has a scale for, unless it is in such blocks: then it stays.
    writer.tensor("blk.0.ffn_down.weight").bytes[..2].copy_from_slice(&[0xff, 0x7b]);
    writer.tensor("blk.0.ffn_down.weight").bytes[2] = 0x80;
    for (format, is_kept) in [(BlockFormat::Q8_0, true), (BlockFormat::Q4_1, false)] {
        let gpt = GptConfig { base_format: Some(format), ..gpt.clone() };
        let parameters = folders::parameters(&gpu, &gpt);
        let loaded = load(&open(&writer), &parameters);
        assert_eq!(loaded.is_ok(), is_kept, "{format}");
        if let Err(error) = loaded {
            let error = error.to_string();
            assert!(error.contains("blk.0.ffn_down") && error.contains("Q4_1"), "{error}");
        } else {
            let found = values(&parameters, "blocks.0.mlp.down.weight")[0];
            assert_eq!(found, -128.0 * 65504.0);
        }
    }
}
