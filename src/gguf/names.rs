//! Which tensors of a GGUF file each parameter is made of: a table per architecture, in the names of
//! llama.cpp.

use crate::hugging_face::Made::{
    Halves, OnePlus, PairedQueriesKeysValues, QueriesKeysValues, Same,
};
use crate::hugging_face::{Family, Row};

/// The table of tokens, whose rows say how many there are.
pub(super) const EMBEDDING: &str = "token_embd.weight";
/// The head, where it is not the embedding.
pub(super) const HEAD: &str = "output.weight";
/// What each rotary frequency is divided by, in models of the architecture `llama`.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// Learned positions, which stay in F32.
pub(super) const POSITIONS: &str = "position_embd.weight";

const QUERIES_KEYS_VALUES: &[&str] =
    &["blk.*.attn_q.weight", "blk.*.attn_k.weight", "blk.*.attn_v.weight"];
const QUERIES_KEYS_VALUES_BIAS: &[&str] =
    &["blk.*.attn_q.bias", "blk.*.attn_k.bias", "blk.*.attn_v.bias"];

/// Not transposed as transformers has them: the converter turned them round.
const GPT2: &[Row] = &[
    ("token_embedding.weight", &[EMBEDDING], Same),
    ("position_embedding.weight", &[POSITIONS], Same),
    ("blocks.*.norm1.weight", &["blk.*.attn_norm.weight"], Same),
    ("blocks.*.norm1.bias", &["blk.*.attn_norm.bias"], Same),
    ("blocks.*.attention.qkv.weight", &["blk.*.attn_qkv.weight"], Same),
    ("blocks.*.attention.qkv.bias", &["blk.*.attn_qkv.bias"], Same),
    ("blocks.*.attention.projection.weight", &["blk.*.attn_output.weight"], Same),
    ("blocks.*.attention.projection.bias", &["blk.*.attn_output.bias"], Same),
    ("blocks.*.norm2.weight", &["blk.*.ffn_norm.weight"], Same),
    ("blocks.*.norm2.bias", &["blk.*.ffn_norm.bias"], Same),
    ("blocks.*.mlp.up.weight", &["blk.*.ffn_up.weight"], Same),
    ("blocks.*.mlp.up.bias", &["blk.*.ffn_up.bias"], Same),
    ("blocks.*.mlp.down.weight", &["blk.*.ffn_down.weight"], Same),
    ("blocks.*.mlp.down.bias", &["blk.*.ffn_down.bias"], Same),
    ("norm.weight", &["output_norm.weight"], Same),
    ("norm.bias", &["output_norm.bias"], Same),
    ("head.weight", &[HEAD], Same),
];

/// What all but GPT-2 have.
const COMMON: &[Row] = &[
    ("token_embedding.weight", &[EMBEDDING], Same),
    ("blocks.*.attention.projection.weight", &["blk.*.attn_output.weight"], Same),
    ("blocks.*.attention.projection.bias", &["blk.*.attn_output.bias"], Same),
    ("blocks.*.mlp.gate_up.weight", &["blk.*.ffn_gate.weight", "blk.*.ffn_up.weight"], Halves),
    ("blocks.*.mlp.gate_up.bias", &["blk.*.ffn_gate.bias", "blk.*.ffn_up.bias"], Halves),
    ("blocks.*.mlp.down.weight", &["blk.*.ffn_down.weight"], Same),
    ("blocks.*.mlp.down.bias", &["blk.*.ffn_down.bias"], Same),
    ("head.weight", &[HEAD], Same),
];

/// The architecture `llama`, Mistral's models too.
const LLAMA: &[Row] = &[
    ("blocks.*.attention.qkv.weight", QUERIES_KEYS_VALUES, PairedQueriesKeysValues),
    ("blocks.*.attention.qkv.bias", QUERIES_KEYS_VALUES_BIAS, PairedQueriesKeysValues),
    ("blocks.*.norm1.weight", &["blk.*.attn_norm.weight"], Same),
    ("blocks.*.norm2.weight", &["blk.*.ffn_norm.weight"], Same),
    ("norm.weight", &["output_norm.weight"], Same),
];

const QWEN: &[Row] = &[
    ("blocks.*.attention.qkv.weight", QUERIES_KEYS_VALUES, QueriesKeysValues),
    ("blocks.*.attention.qkv.bias", QUERIES_KEYS_VALUES_BIAS, QueriesKeysValues),
    ("blocks.*.attention.q_norm.weight", &["blk.*.attn_q_norm.weight"], Same),
    ("blocks.*.attention.k_norm.weight", &["blk.*.attn_k_norm.weight"], Same),
    ("blocks.*.norm1.weight", &["blk.*.attn_norm.weight"], Same),
    ("blocks.*.norm2.weight", &["blk.*.ffn_norm.weight"], Same),
    ("norm.weight", &["output_norm.weight"], Same),
];

/// The converter adds 1 to the weights of norms: what is lost in the sum stays lost.
const GEMMA: &[Row] = &[
    ("blocks.*.attention.qkv.weight", QUERIES_KEYS_VALUES, QueriesKeysValues),
    ("blocks.*.attention.q_norm.weight", &["blk.*.attn_q_norm.weight"], OnePlus),
    ("blocks.*.attention.k_norm.weight", &["blk.*.attn_k_norm.weight"], OnePlus),
    ("blocks.*.norm1.weight", &["blk.*.attn_norm.weight"], OnePlus),
    ("blocks.*.post_attention_norm.weight", &["blk.*.post_attention_norm.weight"], OnePlus),
    ("blocks.*.norm2.weight", &["blk.*.ffn_norm.weight"], OnePlus),
    ("blocks.*.post_mlp_norm.weight", &["blk.*.post_ffw_norm.weight"], OnePlus),
    ("norm.weight", &["output_norm.weight"], OnePlus),
];

/// The table of models of a family.
pub(super) fn rows(family: Family) -> impl Iterator<Item = &'static Row> + Clone {
    let [common, own] = match family {
        Family::Gpt2 => [GPT2, &[]],
        Family::Llama | Family::Mistral => [COMMON, LLAMA],
        Family::Qwen2 | Family::Qwen3 => [COMMON, QWEN],
        Family::Gemma2 | Family::Gemma3 => [COMMON, GEMMA],
    };
    common.iter().chain(own)
}

/// Whether nothing is lost without a tensor of this name: the configuration has what it says.
pub(super) fn is_derived(family: Family, name: &str) -> bool {
    matches!(family, Family::Llama | Family::Mistral) && name == FACTORS
}
