//! From metadata to the configuration that a `config.json` of the same model has.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::container::{Container, TensorInfo};
use super::names::{EMBEDDING, FACTORS, HEAD, is_derived};
use super::rope::scaling_of;
use super::value::{Array, Value};
use crate::error::Result;
use crate::hugging_face::{Config, Family, Fields, MOST_LAYERS, all_or_none, invalid};
use crate::nn::RotaryScaling;

/// Settings of an architecture that say nothing of the function from tokens to logits.
const HARMLESS: &[&str] = &[
    // With other scalings than those that are here they count.
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
];

/// Settings that may be lists, a number for each layer, and here must be one for all.
const BY_LAYER: &[&str] =
    &["attention.head_count", "attention.head_count_kv", "feed_forward_length"];

/// Architectures that are read, by llama.cpp's names, and what the models are without more being
/// said.
pub(super) const ARCHITECTURES: [(&str, Family); 6] = [
    ("gpt2", Family::Gpt2),
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
];

type Described = Vec<(&'static str, Json)>;

/// The configuration of the model in this file. `read` gives the numbers of a tensor.
pub(super) fn config(
    file: &str,
    container: &Container,
    read: impl Fn(&TensorInfo) -> Result<Vec<f32>>,
) -> Result<Config> {
    let Container { metadata, tensors } = container;
    all_or_none(file, general_problems(metadata))?;
    let (architecture, family) = architecture(file, metadata)?;
    let settings = settings(metadata, architecture);
    let mut fields = Fields::within(format!("{architecture}."), &settings);
    let mut model = Model { tensors, fields: &mut fields, family };
    let mut described = match family {
        Family::Gpt2 => model.gpt2(),
        _ => model.llama(),
    };
    let family = model.family;
    all_or_none(file, fields.finish(HARMLESS))?;
    if let Some(factors) = tensors.get(FACTORS).filter(|_| is_derived(family, FACTORS)) {
        let find = |name: &str| described.iter().find(|(found, _)| *found == name).map(|(_, v)| v);
        let columns = find("head_dim").and_then(Json::as_u64).unwrap_or(0);
        check_factors(file, &factors.shape, columns, find("rope_scaling"))?;
        let base = find("rope_theta").and_then(Json::as_f64).unwrap_or(0.0);
        let scaling = llama3(file, &read(factors)?, base)?;
        described.extend(scaling);
    }
    for token in ["bos_token_id", "eos_token_id"] {
        let id = metadata.get(&format!("tokenizer.ggml.{token}")).map(Value::to_json);
        described.extend(id.map(|id| (token, id)));
    }
    Config::described(family, described)
        .map_err(|problems| invalid(file, format!("as a config.json: {}", problems.join("; "))))
}

/// What is wrong with what the file says of itself, in words.
fn general_problems(metadata: &BTreeMap<String, Value>) -> Vec<String> {
    let general: [(&str, Json, &str); 3] = [
        ("general.type", json!("model"), "it has no model"),
        ("general.quantization_version", json!(2), "convert the model again"),
        ("split.count", json!(1), "llama.cpp's llama-gguf-split --merge makes one file of them"),
    ];
    let wrong = general.into_iter().filter_map(|(name, only, instead)| {
        let value = metadata.get(name)?.to_json();
        let is_none = name == "split.count" && value == json!(0);
        (value != only && !is_none)
            .then(|| format!("{name} is {value}, and only {only} is supported: {instead}"))
    });
    wrong.collect()
}

fn architecture(file: &str, metadata: &BTreeMap<String, Value>) -> Result<(&'static str, Family)> {
    let name = metadata.get("general.architecture");
    let known =
        ARCHITECTURES.into_iter().find(|(known, _)| name.and_then(Value::as_str) == Some(*known));
    known.ok_or_else(|| {
        let name = name.map_or("missing".to_owned(), |name| name.to_json().to_string());
        let known = ARCHITECTURES.map(|(known, _)| known).join(", ");
        invalid(file, format!("general.architecture is {name}; supported are {known}"))
    })
}

/// The settings of an architecture, without its name in front of theirs.
fn settings(metadata: &BTreeMap<String, Value>, architecture: &str) -> Map<String, Json> {
    let own = metadata.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(architecture)?.strip_prefix('.')?;
        let by_layer = value.as_array().filter(|_| BY_LAYER.contains(&name));
        let of_all = by_layer.and_then(Array::same_in_all);
        Some((name.to_owned(), of_all.unwrap_or_else(|| value.to_json())))
    });
    own.collect()
}

/// What is read, and what was found of it so far.
struct Model<'a, 'f> {
    tensors: &'a BTreeMap<String, TensorInfo>,
    fields: &'a mut Fields<'f>,
    family: Family,
}

impl Model<'_, '_> {
    /// The tokens that there are, the layers, and whether the head is the embedding.
    fn sizes(&mut self) -> (usize, usize, bool) {
        let rows = self.tensors.get(EMBEDDING).map(|table| table.shape[0]);
        if rows.is_none() {
            self.fields.add(vec![format!("there is no {EMBEDDING}")]);
        }
        let vocabulary = rows.unwrap_or(1);
        self.only("vocab_size", vocabulary, "rows that token_embd.weight has");
        let mut layers = self.fields.required_count("block_count");
        if layers > self.tensors.len().min(MOST_LAYERS) {
            self.fields.problem("block_count", ", more than there are tensors for");
            layers = 1;
        }
        (vocabulary, layers, !self.tensors.contains_key(HEAD))
    }

    /// A count that follows from others, where the file has it.
    fn only(&mut self, name: &str, count: usize, what: &str) {
        if self.fields.count(name).is_some_and(|found| found != count) {
            self.fields.problem(name, &format!(", and not {count}, the {what}"));
        }
    }

    /// Columns of a head.
    fn head_dim(&mut self, width: usize, heads: usize) -> usize {
        let keys = self.fields.count("attention.key_length");
        if keys.is_none() && !width.is_multiple_of(heads.max(1)) {
            self.fields.problem("embedding_length", ", no multiple of attention.head_count");
        }
        let columns = keys.unwrap_or(width / heads.max(1));
        for name in [
            "attention.value_length",
            "rope.dimension_count",
            "attention.key_length_swa",
            "attention.value_length_swa",
            "rope.dimension_count_swa",
        ] {
            self.only(name, columns, "columns of a head");
        }
        columns
    }

    /// What all have that nothing is made of.
    fn without_more(&mut self) {
        self.fields.only("attention.causal", true);
        for name in ["expert_count", "expert_used_count", "pooling_type"] {
            self.fields.only(name, 0);
        }
    }

    fn gpt2(&mut self) -> Described {
        self.without_more();
        let (vocabulary, layers, is_tied) = self.sizes();
        let [width, heads, context, hidden] =
            ["embedding_length", "attention.head_count", "context_length", "feed_forward_length"]
                .map(|name| self.fields.required_count(name));
        self.only("attention.head_count_kv", heads, "number of heads");
        self.head_dim(width, heads);
        let eps = self.fields.required_real("attention.layer_norm_epsilon");
        vec![
            ("vocab_size", json!(vocabulary)),
            ("tie_word_embeddings", json!(is_tied)),
            ("n_positions", json!(context)),
            ("n_layer", json!(layers)),
            ("n_head", json!(heads)),
            ("n_embd", json!(width)),
            ("n_inner", json!(hidden)),
            // What llama.cpp calls GELU.
            ("activation_function", json!("gelu_new")),
            ("layer_norm_epsilon", json!(eps)),
        ]
    }

    fn llama(&mut self) -> Described {
        self.without_more();
        let (vocabulary, layers, is_tied) = self.sizes();
        let [width, heads, context, hidden] =
            ["embedding_length", "attention.head_count", "context_length", "feed_forward_length"]
                .map(|name| self.fields.required_count(name));
        let kv_heads = self.fields.count("attention.head_count_kv").unwrap_or(heads);
        let head_dim = self.head_dim(width, heads);
        let eps = self.fields.required_real("attention.layer_norm_rms_epsilon");
        let mut described = vec![
            ("vocab_size", json!(vocabulary)),
            ("tie_word_embeddings", json!(is_tied)),
            ("max_position_embeddings", json!(context)),
            ("num_hidden_layers", json!(layers)),
            ("num_attention_heads", json!(heads)),
            ("num_key_value_heads", json!(kv_heads)),
            ("head_dim", json!(head_dim)),
            ("hidden_size", json!(width)),
            ("intermediate_size", json!(hidden)),
            ("rms_norm_eps", json!(eps)),
            ("rope_theta", json!(self.fields.real("rope.freq_base").unwrap_or(1e4))),
            ("rope_scaling", self.linear_scaling()),
        ];
        described.extend(self.windows(layers));
        described.extend(match self.family {
            Family::Llama => self.biases(),
            Family::Gemma2 | Family::Gemma3 => self.gemma([layers, width, heads, head_dim]),
            _ => vec![("hidden_act", json!("silu"))],
        });
        described
    }

    /// Llama's, and how old files say that it is one.
    fn biases(&mut self) -> Described {
        self.fields.only("tensor_data_layout", "Meta AI original pth");
        let has = |name: &str| json!(self.tensors.contains_key(&format!("blk.0.{name}.bias")));
        vec![
            ("hidden_act", json!("silu")),
            ("attention_bias", has("attn_q")),
            ("mlp_bias", has("ffn_up")),
        ]
    }

    /// What follows from the name of a size in llama.cpp too: the scale of attention.
    fn gemma(&mut self, [layers, width, heads, head_dim]: [usize; 4]) -> Described {
        let is_largest =
            matches!((self.family, layers), (Family::Gemma2, 46) | (Family::Gemma3, 62));
        let scalar = if is_largest { width / heads.max(1) } else { head_dim };
        let mut described = vec![
            ("hidden_activation", json!("gelu_pytorch_tanh")),
            ("query_pre_attn_scalar", json!(scalar)),
        ];
        let mut cap = |name, key| {
            let cap = self.fields.real(key);
            described.extend(cap.map(|cap| (name, json!(cap))));
        };
        cap("final_logit_softcapping", "final_logit_softcapping");
        if self.family == Family::Gemma2 {
            cap("attn_logit_softcapping", "attn_logit_softcapping");
        } else {
            let base = self.fields.real("rope.freq_base_swa").unwrap_or(1e4);
            described.push(("rope_local_base_freq", json!(base)));
        }
        described
    }

    /// Which layers see how much. Those of the architecture `llama` that have a window are
    /// Mistral's.
    fn windows(&mut self, layers: usize) -> Described {
        if matches!(self.family, Family::Qwen2 | Family::Qwen3) {
            return Vec::new();
        }
        let window = self.fields.count("attention.sliding_window").filter(|&window| window > 0);
        match (self.family, window) {
            (Family::Llama, None) => return Vec::new(),
            (Family::Llama, window) => {
                self.family = Family::Mistral;
                return vec![("sliding_window", json!(window))];
            }
            _ => {}
        }
        let default = (self.family == Family::Gemma2).then_some(4096);
        let mut described = vec![("sliding_window", json!(window.or(default)))];
        let name = "attention.sliding_window_pattern";
        let slides: Option<Vec<bool>> = match self.fields.value(name) {
            None => return described,
            Some(Json::Array(list)) => list.iter().map(Json::as_bool).collect(),
            // Every so manieth layer sees all; with 0 none does.
            Some(period) => period.as_u64().map(|period| {
                (1..=layers as u64).map(|number| !number.is_multiple_of(period)).collect()
            }),
        };
        let Some(slides) = slides.filter(|slides| slides.len() == layers) else {
            self.fields.problem(name, ", neither a period nor true or false for each layer");
            return described;
        };
        let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
        let kinds: Vec<_> = slides.into_iter().map(kind).collect();
        described.push(("layer_types", json!(kinds)));
        described
    }

    /// `rope_scaling`, as far as it is among the settings.
    fn linear_scaling(&mut self) -> Json {
        self.fields.only("rope.scaling.attn_factor", 1.0);
        let older = self.fields.real("rope.scale_linear");
        let factor = self.fields.real("rope.scaling.factor").or(older);
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        match self.fields.text("rope.scaling.type") {
            None | Some("linear") => {
                factor.map_or(Json::Null, |factor| json!({"rope_type": "linear", "factor": factor}))
            }
            Some("none") => {
                if factor.is_some() {
                    self.fields.problem("rope.scaling.factor", ", with rope.scaling.type none");
                }
                Json::Null
            }
            Some(_) => {
                self.fields.problem("rope.scaling.type", "; supported are none and linear");
                Json::Null
            }
        }
    }
}

/// Fails unless there is a factor for each pair of a head's columns, and no other scaling.
fn check_factors(file: &str, shape: &[usize], columns: u64, other: Option<&Json>) -> Result<()> {
    let pairs = columns / 2;
    if shape.len() != 1 || shape[0] as u64 != pairs {
        let reason = format!("{FACTORS} has the shape {shape:?}, and the model wants [{pairs}]");
        return Err(invalid(file, reason));
    }
    if other.is_some_and(|scaling| !scaling.is_null()) {
        return Err(invalid(file, format!("{FACTORS} scales, and rope.scaling.factor does too")));
    }
    Ok(())
}

/// `rope_scaling` for these factors, in place of the one that was described.
fn llama3(file: &str, factors: &[f32], base: f64) -> Result<Option<(&'static str, Json)>> {
    match scaling_of(factors, base) {
        Some(RotaryScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        }) => {
            let scaling = json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            });
            Ok(Some(("rope_scaling", scaling)))
        }
        Some(_) => Ok(None),
        None => {
            let reason = format!(
                "{FACTORS} holds {factors:?}, which no scaling of Llama 3's with low_freq_factor 1 \
                 and high_freq_factor 4 is"
            );
            Err(invalid(file, reason))
        }
    }
}
