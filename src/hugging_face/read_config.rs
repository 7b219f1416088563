//! From the fields of a `config.json` to a model.

use serde_json::Value;

use super::Family;
use super::fields::Fields;
use crate::nn::{FeedForwardKind, GptConfig, LayerKind, Positions, QkNorm, Rotary, RotaryScaling};

/// More than any model has.
pub(crate) const MOST_LAYERS: usize = 10_000;

/// What a configuration of this family describes. What is wrong with it is kept among the fields.
pub(super) fn read(family: Family, fields: &mut Fields<'_>) -> GptConfig {
    for flag in ["is_encoder_decoder", "add_cross_attention"] {
        fields.only(flag, false);
    }
    for field in ["quantization_config", "compression_config"] {
        if fields.value(field).is_some() {
            fields.problem(field, "; take the folder whose weights are not quantized");
        }
    }
    if fields.value("auto_map").is_some() {
        fields.problem("auto_map", ", code of its own, which is not run");
    }
    if fields
        .value("pruned_heads")
        .is_some_and(|heads| heads.as_object().is_none_or(|heads| !heads.is_empty()))
    {
        fields.problem("pruned_heads", ", and models without some heads are not supported");
    }
    let config = match family {
        Family::Gpt2 => read_gpt2(fields),
        _ => read_llama(family, fields),
    };
    let default = matches!(family, Family::Gpt2 | Family::Gemma2 | Family::Gemma3);
    GptConfig { tied_head: fields.flag("tie_word_embeddings", default), ..config }
}

fn read_gpt2(fields: &mut Fields<'_>) -> GptConfig {
    let [width, context] = ["n_embd", "n_positions"].map(|name| fields.required_count(name));
    let [layers, heads] = ["n_layer", "n_head"].map(|name| fields.required_count(name));
    let vocabulary = fields.required_count("vocab_size");
    if fields.count("n_ctx").is_some_and(|count| count != context) {
        fields.problem("n_ctx", ", which is not n_positions");
    }
    let feed_forward = match fields.text("activation_function") {
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") | None => FeedForwardKind::GeluTanh,
        Some("gelu") => FeedForwardKind::Gelu,
        Some(_) => {
            fields.problem("activation_function", "; supported are gelu_new and gelu");
            FeedForwardKind::GeluTanh
        }
    };
    fields.only("scale_attn_by_inverse_layer_idx", false);
    fields.harmless(&[
        "attn_pdrop",
        "embd_pdrop",
        "n_special",
        "output_past",
        "predict_special_tokens",
        // The same product in another precision.
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ]);
    GptConfig {
        hidden: fields.count("n_inner").unwrap_or(width.saturating_mul(4)),
        feed_forward,
        attention_scale: (!fields.flag("scale_attn_weights", true)).then_some(1.0),
        norm_eps: fields.real("layer_norm_epsilon").unwrap_or(1e-5) as f32,
        ..GptConfig::gpt2(vocabulary, context, layers, heads, width)
    }
}

/// All others are Llama's form with some differences.
fn read_llama(family: Family, fields: &mut Fields<'_>) -> GptConfig {
    let [layers, width] =
        ["num_hidden_layers", "hidden_size"].map(|name| fields.required_count(name));
    // There is a list of them.
    let layers = if layers > MOST_LAYERS {
        fields.problem("num_hidden_layers", ", more than any model has");
        1
    } else {
        layers
    };
    let hidden = fields.required_count("intermediate_size");
    let Sizes { vocabulary, context, heads, kv_heads, head_dim } = sizes(family, fields);
    let (window, layer_kinds) = windows(family, layers, fields);
    let slides = window.is_some();
    let (rotary, window_rotary) = rotations(family, fields);
    let (bias, qkv_bias) = biases(family, fields);
    let config = GptConfig {
        hidden,
        // What it is without saying so is left to the model.
        head_dim: head_dim.filter(|&columns| columns.saturating_mul(heads.max(1)) != width),
        positions: Positions::Rotary(rotary),
        window_rotary: window_rotary.filter(|&other| slides && other != rotary),
        window,
        layer_kinds,
        feed_forward: feed_forward(family, fields),
        bias,
        qkv_bias,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3).then_some(QkNorm::Rms),
        norm_eps: fields.real("rms_norm_eps").unwrap_or(1e-6) as f32,
        ..GptConfig::llama(vocabulary, context, layers, [heads, kv_heads], width)
    };
    if family.is_gemma() { as_gemma(config, family, fields) } else { config }
}

/// With what Gemma has beside Llama's form.
fn as_gemma(config: GptConfig, family: Family, fields: &mut Fields<'_>) -> GptConfig {
    fields.only("use_bidirectional_attention", false);
    let scalar = fields.real("query_pre_attn_scalar").unwrap_or(256.0);
    let columns = config.head_dim.unwrap_or(config.width / config.heads.max(1));
    let cap = |cap: Option<f64>| cap.map(|cap| cap as f32);
    GptConfig {
        norm_weight_offset: 1.0,
        post_norms: true,
        embedding_scale: Some((config.width as f64).sqrt() as f32),
        attention_scale: (scalar != columns as f64).then(|| scalar.sqrt().recip() as f32),
        soft_cap: cap(capped(family, "attn_logit_softcapping", 50.0, fields)),
        logit_soft_cap: cap(capped(family, "final_logit_softcapping", 30.0, fields)),
        ..config
    }
}

/// A soft cap, which Gemma 2 has unless it says null, and Gemma 3 has not unless it gives one.
fn capped(family: Family, name: &str, default: f64, fields: &mut Fields<'_>) -> Option<f64> {
    let is_default = family == Family::Gemma2 && !fields.has(name);
    if is_default { Some(default) } else { fields.real(name) }
}

struct Sizes {
    vocabulary: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: Option<usize>,
}

/// The sizes that some families have without saying so.
fn sizes(family: Family, fields: &mut Fields<'_>) -> Sizes {
    let or = |fields: &mut Fields<'_>, name: &str, default: Option<usize>| {
        if fields.has(name) || default.is_none() {
            return fields.required_count(name);
        }
        default.unwrap_or(1)
    };
    let is_gemma3 = family == Family::Gemma3;
    let vocabulary = or(fields, "vocab_size", is_gemma3.then_some(262_208));
    let context = or(fields, "max_position_embeddings", is_gemma3.then_some(131_072));
    let heads = or(fields, "num_attention_heads", is_gemma3.then_some(8));
    let default = match family {
        Family::Gpt2 | Family::Llama => heads,
        Family::Mistral => 8,
        Family::Qwen2 | Family::Qwen3 => 32,
        Family::Gemma2 | Family::Gemma3 => 4,
    };
    let is_null = fields.has("num_key_value_heads");
    let kv_heads =
        fields.count("num_key_value_heads").unwrap_or(if is_null { heads } else { default });
    let default = match family {
        Family::Qwen3 => Some(128),
        Family::Gemma2 | Family::Gemma3 => Some(256),
        _ => None,
    };
    let head_dim = fields.count("head_dim").or(default);
    Sizes { vocabulary, context, heads, kv_heads, head_dim }
}

/// Whether all linear layers have a bias, and whether those of queries, keys and values have.
fn biases(family: Family, fields: &mut Fields<'_>) -> (bool, bool) {
    match family {
        Family::Llama => {
            let bias = fields.flag("attention_bias", false);
            if fields.flag("mlp_bias", false) != bias {
                let reason =
                    ", and attention_bias is not: biases are supported in all layers or none";
                fields.problem("mlp_bias", reason);
            }
            (bias, false)
        }
        // Older files of Qwen 2 say what cannot be chosen.
        Family::Qwen2 => {
            fields.only("attention_bias", true);
            (false, true)
        }
        _ => {
            fields.only("attention_bias", false);
            fields.only("mlp_bias", false);
            (false, false)
        }
    }
}

fn feed_forward(family: Family, fields: &mut Fields<'_>) -> FeedForwardKind {
    if !family.is_gemma() {
        fields.only("hidden_act", "silu");
        return FeedForwardKind::SwiGlu;
    }
    // What counts is hidden_activation; some files have the other one beside it.
    for name in ["hidden_activation", "hidden_act"] {
        fields.only(name, "gelu_pytorch_tanh");
    }
    FeedForwardKind::GeGlu
}

/// How many positions sliding layers see, and which layers are sliding: an empty list for all of
/// them.
fn windows(
    family: Family,
    layers: usize,
    fields: &mut Fields<'_>,
) -> (Option<usize>, Vec<LayerKind>) {
    use LayerKind::{Full, Sliding};
    if family == Family::Llama {
        // Llama has none, and its code does not look.
        if fields.value("sliding_window").is_some() {
            fields.problem("sliding_window", ", which Llama does not have");
        }
        return (None, Vec::new());
    }
    let default = if fields.has("sliding_window") { None } else { Some(4096) };
    let size = fields.count("sliding_window").or(default);
    if size == Some(0) {
        fields.problem("sliding_window", ", and a position sees at least itself");
    }
    let mut kinds = usual_kinds(family, layers, size, fields);
    if let Some(listed) = listed_kinds(layers, fields) {
        if family == Family::Mistral && size.is_some() && listed.contains(&Full) {
            fields.problem("layer_types", ", and Mistral's layers are all alike");
        }
        let uses_none = family.is_qwen() && !fields.flag("use_sliding_window", false);
        kinds = if uses_none { vec![Full; layers] } else { listed };
    }
    match size.filter(|_| kinds.contains(&Sliding)) {
        None => (None, Vec::new()),
        some if kinds.contains(&Full) => (some, kinds),
        some => (some, Vec::new()),
    }
}

/// What each layer of a family sees where the file has no list.
fn usual_kinds(
    family: Family,
    layers: usize,
    size: Option<usize>,
    fields: &mut Fields<'_>,
) -> Vec<LayerKind> {
    use LayerKind::{Full, Sliding};
    match family {
        Family::Qwen2 | Family::Qwen3 => {
            let first = fields.count("max_window_layers").unwrap_or(28);
            let slides = fields.flag("use_sliding_window", false) && size.is_some();
            let kind = |layer| if slides && layer >= first { Sliding } else { Full };
            (0..layers).map(kind).collect()
        }
        Family::Gemma2 => {
            let named = fields.count("sliding_window_size");
            if named.is_some() && named != size {
                fields.problem("sliding_window_size", ", which is not sliding_window");
            }
            LayerKind::every(2, layers)
        }
        Family::Gemma3 => {
            let named = fields.count("sliding_window_pattern");
            // The name that it has in files of transformers 4.53 and later.
            let period = fields.count("_sliding_window_pattern").or(named).unwrap_or(6);
            LayerKind::every(period.max(1), layers)
        }
        _ => vec![Sliding; layers],
    }
}

fn listed_kinds(layers: usize, fields: &mut Fields<'_>) -> Option<Vec<LayerKind>> {
    let listed = fields.list("layer_types")?;
    let kind = |value: &Value| match value.as_str() {
        Some("full_attention") => Some(LayerKind::Full),
        Some("sliding_attention") => Some(LayerKind::Sliding),
        _ => None,
    };
    let kinds: Option<Vec<_>> = listed.iter().map(kind).collect();
    match kinds {
        Some(kinds) if kinds.len() == layers => return Some(kinds),
        Some(_) => fields.problem("layer_types", ", not one for each of num_hidden_layers"),
        None => {
            let reason = "; supported are full_attention and sliding_attention";
            fields.problem("layer_types", reason);
        }
    }
    None
}

/// The rotation of full layers, and of sliding ones where it is another.
fn rotations(family: Family, fields: &mut Fields<'_>) -> (Rotary, Option<Rotary>) {
    fields.only("partial_rotary_factor", 1.0);
    for flag in ["rope_interleaved", "use_mrope"] {
        fields.only(flag, false);
    }
    let default = if family == Family::Gemma3 { 1e6 } else { 1e4 };
    let base = fields.real("rope_theta").unwrap_or(default);
    let local = (family == Family::Gemma3)
        .then(|| Rotary::new(fields.real("rope_local_base_freq").unwrap_or(1e4)));
    // transformers 5 writes one object, before that there were a base and another object.
    let (old, new) = (fields.object("rope_scaling"), fields.object("rope_parameters"));
    let Some(mut object) = new else {
        let rotary = old.map_or(Rotary::new(base), |object| rotation(object, base, fields));
        return (rotary, local);
    };
    // Files for both have the same in both.
    let scaling = old.map(|object| rotation(object, base, fields).scaling);
    let by_kind = ["full_attention", "sliding_attention"].map(|kind| object.object(kind));
    let (full, sliding) = match by_kind {
        [None, None] => (rotation(object, base, fields), local),
        [Some(full), Some(sliding)] => {
            fields.take(object);
            let local_base = local.map_or(base, |local| local.base);
            (rotation(full, base, fields), Some(rotation(sliding, local_base, fields)))
        }
        _ => {
            fields.problem("rope_parameters", ", and those of another kind of layer are missing");
            (Rotary::new(base), local)
        }
    };
    if scaling.is_some_and(|scaling| scaling != full.scaling) {
        fields.problem("rope_scaling", ", which is not what rope_parameters says");
    }
    (full, sliding)
}

fn rotation<'a>(mut object: Fields<'a>, base: f64, fields: &mut Fields<'a>) -> Rotary {
    let base = object.real("rope_theta").unwrap_or(base);
    object.only("partial_rotary_factor", 1.0);
    let older = object.text("type");
    let scaling = match object.text("rope_type").or(older) {
        None | Some("default") => RotaryScaling::None,
        Some("linear") => RotaryScaling::Linear { factor: object.required_real("factor") },
        Some("llama3") => RotaryScaling::Llama3 {
            factor: object.required_real("factor"),
            low_freq_factor: object.required_real("low_freq_factor"),
            high_freq_factor: object.required_real("high_freq_factor"),
            original_context: object.required_count("original_max_position_embeddings"),
        },
        Some(_) => {
            let name = if object.has("rope_type") { "rope_type" } else { "type" };
            object.problem(name, "; supported are default, linear and llama3");
            // What belongs to it is not to be named too.
            let left = object.into_problems();
            fields.add(left);
            return Rotary::new(base);
        }
    };
    fields.take(object);
    Rotary { base, scaling }
}
