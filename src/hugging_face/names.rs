//! Which tensors of theirs each parameter is made of: one table per family, read both ways.

use std::ops::Range;

use super::{Config, Family, invalid};
use crate::error::Result;
use crate::graph::{Graph, ParameterSpec, Phase};
use crate::nn::{Gpt, GptConfig};

/// How a parameter is made of tensors.
#[derive(Clone, Copy)]
pub(crate) enum Made {
    /// It is one.
    Same,
    /// It is one with rows and columns exchanged: GPT-2's `Conv1D` has a row for each input.
    Transposed,
    /// The rows of queries, keys and values, one after the other. Within a head theirs have the
    /// same order: pairs that turn together are half a head apart.
    QueriesKeysValues,
    /// The same, but in theirs pairs of queries and keys that turn together lie side by side.
    PairedQueriesKeysValues,
    /// As many rows of each.
    Halves,
    /// It is one whose numbers are larger by one: theirs have what a norm multiplies with.
    OnePlus,
}

use Made::{Halves, QueriesKeysValues, Same, Transposed};

/// What the numbers of a tensor are to those of its parameter, beside their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The same.
    #[default]
    Same,
    /// Those of so many heads, and within a head rows that turn together lie side by side.
    Paired { heads: usize },
    /// Larger by one.
    OnePlus,
}

/// A parameter, the tensors that it is made of, and how. `*` stands for the number of the block.
pub(crate) type Row = (&'static str, &'static [&'static str], Made);

/// What is not in front of its name has the name of the body in front: `model.`, say.
const HEAD: &str = "lm_head.weight";

const GPT2: &[Row] = &[
    ("token_embedding.weight", &["wte.weight"], Same),
    ("position_embedding.weight", &["wpe.weight"], Same),
    ("blocks.*.norm1.weight", &["h.*.ln_1.weight"], Same),
    ("blocks.*.norm1.bias", &["h.*.ln_1.bias"], Same),
    ("blocks.*.attention.qkv.weight", &["h.*.attn.c_attn.weight"], Transposed),
    ("blocks.*.attention.qkv.bias", &["h.*.attn.c_attn.bias"], Same),
    ("blocks.*.attention.projection.weight", &["h.*.attn.c_proj.weight"], Transposed),
    ("blocks.*.attention.projection.bias", &["h.*.attn.c_proj.bias"], Same),
    ("blocks.*.norm2.weight", &["h.*.ln_2.weight"], Same),
    ("blocks.*.norm2.bias", &["h.*.ln_2.bias"], Same),
    ("blocks.*.mlp.up.weight", &["h.*.mlp.c_fc.weight"], Transposed),
    ("blocks.*.mlp.up.bias", &["h.*.mlp.c_fc.bias"], Same),
    ("blocks.*.mlp.down.weight", &["h.*.mlp.c_proj.weight"], Transposed),
    ("blocks.*.mlp.down.bias", &["h.*.mlp.c_proj.bias"], Same),
    ("norm.weight", &["ln_f.weight"], Same),
    ("norm.bias", &["ln_f.bias"], Same),
    ("head.weight", &[HEAD], Same),
];

/// What Llama and all its descendants have, each as far as its configuration asks for it.
const LLAMA: &[Row] = &[
    ("token_embedding.weight", &["embed_tokens.weight"], Same),
    (
        "blocks.*.attention.qkv.weight",
        &[
            "layers.*.self_attn.q_proj.weight",
            "layers.*.self_attn.k_proj.weight",
            "layers.*.self_attn.v_proj.weight",
        ],
        QueriesKeysValues,
    ),
    (
        "blocks.*.attention.qkv.bias",
        &[
            "layers.*.self_attn.q_proj.bias",
            "layers.*.self_attn.k_proj.bias",
            "layers.*.self_attn.v_proj.bias",
        ],
        QueriesKeysValues,
    ),
    ("blocks.*.attention.q_norm.weight", &["layers.*.self_attn.q_norm.weight"], Same),
    ("blocks.*.attention.k_norm.weight", &["layers.*.self_attn.k_norm.weight"], Same),
    ("blocks.*.attention.projection.weight", &["layers.*.self_attn.o_proj.weight"], Same),
    ("blocks.*.attention.projection.bias", &["layers.*.self_attn.o_proj.bias"], Same),
    (
        "blocks.*.mlp.gate_up.weight",
        &["layers.*.mlp.gate_proj.weight", "layers.*.mlp.up_proj.weight"],
        Halves,
    ),
    (
        "blocks.*.mlp.gate_up.bias",
        &["layers.*.mlp.gate_proj.bias", "layers.*.mlp.up_proj.bias"],
        Halves,
    ),
    ("blocks.*.mlp.down.weight", &["layers.*.mlp.down_proj.weight"], Same),
    ("blocks.*.mlp.down.bias", &["layers.*.mlp.down_proj.bias"], Same),
    ("norm.weight", &["norm.weight"], Same),
    ("head.weight", &[HEAD], Same),
];

const LLAMA_NORMS: &[Row] = &[
    ("blocks.*.norm1.weight", &["layers.*.input_layernorm.weight"], Same),
    ("blocks.*.norm2.weight", &["layers.*.post_attention_layernorm.weight"], Same),
];

/// Four to a block; one name means another norm than in Llama.
const GEMMA_NORMS: &[Row] = &[
    ("blocks.*.norm1.weight", &["layers.*.input_layernorm.weight"], Same),
    ("blocks.*.post_attention_norm.weight", &["layers.*.post_attention_layernorm.weight"], Same),
    ("blocks.*.norm2.weight", &["layers.*.pre_feedforward_layernorm.weight"], Same),
    ("blocks.*.post_mlp_norm.weight", &["layers.*.post_feedforward_layernorm.weight"], Same),
];

impl Family {
    fn rows(self) -> impl Iterator<Item = &'static Row> + Clone {
        let [all, norms] = match self {
            Self::Gpt2 => [GPT2, &[]],
            Self::Gemma2 | Self::Gemma3 => [LLAMA, GEMMA_NORMS],
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 => [LLAMA, LLAMA_NORMS],
        };
        all.iter().chain(norms)
    }

    /// What may be in front of the names of all tensors but the head's; the first is what the
    /// family's language models are written with.
    pub(super) fn bodies(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &["transformer.", ""],
            Self::Gemma3 => &["model.", "", "language_model.model.", "model.language_model."],
            _ => &["model.", ""],
        }
    }

    /// The embedding, by which the [body](Self::bodies) shows.
    pub(super) fn embedding(self) -> &'static str {
        match self {
            Self::Gpt2 => "wte.weight",
            _ => "embed_tokens.weight",
        }
    }

    /// Whether a tensor with this name behind that of the body follows from the configuration, so
    /// that nothing is lost without it.
    pub(super) fn is_derived(self, name: &str) -> bool {
        match self {
            Self::Gpt2 => {
                let mask = |name: &str| matches!(name, "attn.bias" | "attn.masked_bias");
                name.strip_prefix("h.").and_then(|n| n.split_once('.')).is_some_and(|n| mask(n.1))
            }
            _ => {
                name.ends_with("rotary_emb.inv_freq")
                    || name.ends_with("rotary_emb.original_inv_freq")
                    || name.ends_with("rotary_emb_local.inv_freq")
            }
        }
    }
}

/// A parameter and the tensors that it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name of the parameter.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What lies in its rows, in order. A row is an entry of the first dimension.
    pub theirs: Vec<TheirTensor>,
    /// Whether theirs has rows and columns exchanged.
    pub is_transposed: bool,
}

impl Tensor {
    /// Elements of a row.
    pub(super) fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// What of these rows lies in each of the tensors, counted in its own rows.
    pub(super) fn shares(
        &self,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (&TheirTensor, Range<usize>)> {
        self.theirs.iter().filter_map(move |theirs| {
            let of = &theirs.rows;
            let inside = rows.start.max(of.start)..rows.end.min(of.end);
            (!inside.is_empty()).then(|| (theirs, inside.start - of.start..inside.end - of.start))
        })
    }
}

/// A tensor in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TheirTensor {
    /// Its name without that of the body, such as `model.`.
    pub name: String,
    /// Its shape in the folder.
    pub shape: Vec<usize>,
    /// The rows of the parameter that it is.
    pub rows: Range<usize>,
    pub(crate) kept: Kept,
}

impl TheirTensor {
    /// Its name in a folder where the others have `body` in front of theirs.
    pub(super) fn full_name(&self, body: &str) -> String {
        match (self.name.as_str(), body) {
            (HEAD, "language_model.model.") => format!("language_model.{HEAD}"),
            (HEAD, _) => HEAD.to_owned(),
            (name, body) => format!("{body}{name}"),
        }
    }
}

/// The head's name in such a folder, whether or not the model has one.
pub(super) fn head_name(body: &str) -> String {
    let (name, kept) = (HEAD.to_owned(), Kept::Same);
    TheirTensor { name, shape: Vec::new(), rows: 0..0, kept }.full_name(body)
}

impl Config {
    /// All parameters of the model with the tensors that they are made of, in the order of the
    /// model.
    ///
    /// # Errors
    /// [`Error::ModelFile`](crate::Error::ModelFile) where the model has parameters that no model
    /// of this family has; [`Error::Setting`](crate::Error::Setting).
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        self.tensors_of(&self.parameters()?)
    }

    /// All parameters of the model.
    pub(crate) fn parameters(&self) -> Result<Vec<ParameterSpec>> {
        let gpt = Gpt::new(self.gpt.clone())?;
        let mut graph = Graph::new(Phase::Evaluate);
        let tokens = graph.tokens("tokens", [1, 1], self.gpt.vocabulary);
        gpt.logits(&mut graph, tokens);
        Ok(graph.parameters().to_vec())
    }

    /// As [`tensors`](Self::tensors), for these parameters.
    pub(super) fn tensors_of(&self, parameters: &[ParameterSpec]) -> Result<Vec<Tensor>> {
        tensors_by(self.family().rows(), self, parameters, "model.safetensors")
    }
}

/// These parameters with the tensors of a file that a table makes them of.
///
/// # Errors
/// One that names all that the table has nothing for.
pub(crate) fn tensors_by(
    table: impl Iterator<Item = &'static Row> + Clone,
    config: &Config,
    parameters: &[ParameterSpec],
    file: &str,
) -> Result<Vec<Tensor>> {
    let tensor = |spec| tensor_by(table.clone(), &config.gpt, spec);
    let found = parameters.iter().map(|spec| (spec, tensor(spec)));
    let (made, others): (Vec<_>, Vec<_>) = found.partition(|(_, tensor)| tensor.is_some());
    if others.is_empty() {
        return Ok(made.into_iter().filter_map(|(_, tensor)| tensor).collect());
    }
    let names: Vec<_> = others.iter().map(|(spec, _)| spec.name.as_str()).collect();
    let family = config.family();
    let reason = format!("models of the family {family} have nothing for {}", names.join(", "));
    Err(invalid(file, reason))
}

fn tensor_by(
    mut table: impl Iterator<Item = &'static Row>,
    gpt: &GptConfig,
    spec: &ParameterSpec,
) -> Option<Tensor> {
    let (ours, number) = match block_of(&spec.name) {
        Some((number, rest)) => (format!("blocks.*.{rest}"), number),
        None => (spec.name.clone(), ""),
    };
    let (_, names, made) = table.find(|(name, ..)| *name == ours)?;
    let shape = spec.shape.dims.clone();
    let mut first = 0;
    let mut theirs = Vec::with_capacity(names.len());
    for (name, (rows, kept)) in names.iter().zip(made.parts(gpt, shape[0])) {
        let mut their_shape = shape.clone();
        their_shape[0] = rows;
        if let Transposed = made {
            their_shape.reverse();
        }
        let name = name.replace('*', number);
        theirs.push(TheirTensor { name, shape: their_shape, rows: first..first + rows, kept });
        first += rows;
    }
    let is_transposed = matches!(made, Transposed);
    // A parameter of another model may have this name and not these rows.
    (first == shape[0]).then(|| Tensor { name: spec.name.clone(), shape, theirs, is_transposed })
}

impl Made {
    /// The rows of each part of a parameter with so many, and what its numbers are.
    fn parts(self, gpt: &GptConfig, rows: usize) -> Vec<(usize, Kept)> {
        let [queries, keys] = [gpt.heads, gpt.kv_heads].map(|heads| heads * gpt.head_dim());
        let paired = |heads| Kept::Paired { heads };
        match self {
            Self::Same | Self::Transposed => vec![(rows, Kept::Same)],
            Self::QueriesKeysValues => {
                [queries, keys, keys].map(|rows| (rows, Kept::Same)).to_vec()
            }
            Self::PairedQueriesKeysValues => {
                vec![(queries, paired(gpt.heads)), (keys, paired(gpt.kv_heads)), (keys, Kept::Same)]
            }
            Self::Halves => vec![(rows / 2, Kept::Same); 2],
            Self::OnePlus => vec![(rows, Kept::OnePlus)],
        }
    }
}

/// What is wrong with a tensor that is to have this shape, in words: it is missing, or has another.
pub(crate) fn misfit(name: &str, wanted: &[usize], found: Option<&[usize]>) -> Option<String> {
    match found {
        None => Some(format!("{name} {wanted:?} is missing")),
        Some(found) if found != wanted => {
            Some(format!("{name} has the shape {found:?}, and the model wants {wanted:?}"))
        }
        Some(_) => None,
    }
}

/// The number of a block, and the rest of the name.
fn block_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blocks.")?.split_once('.')
}
