//! From a model to the fields of a `config.json` that describe it.

use serde_json::{Map, Value, json};

use super::Family;
use crate::nn::{FeedForwardKind, GptConfig, LayerKind, Positions, Rotary, RotaryScaling};

/// The fields that a family has for the function of a model, always the same in the same order.
/// `has_rope_parameters` as transformers 5 writes them, in place of a base and `rope_scaling`.
pub(super) fn describe(
    family: Family,
    gpt: &GptConfig,
    has_rope_parameters: bool,
) -> Vec<(&'static str, Value)> {
    let mut fields =
        vec![("vocab_size", json!(gpt.vocabulary)), ("tie_word_embeddings", json!(gpt.tied_head))];
    if family == Family::Gpt2 {
        fields.extend(of_gpt2(gpt));
        return fields;
    }
    fields.extend([
        ("max_position_embeddings", json!(gpt.context)),
        ("num_hidden_layers", json!(gpt.layers)),
        ("num_attention_heads", json!(gpt.heads)),
        ("num_key_value_heads", json!(gpt.kv_heads)),
        ("head_dim", json!(gpt.head_dim())),
        ("hidden_size", json!(gpt.width)),
        ("intermediate_size", json!(gpt.hidden)),
        ("rms_norm_eps", decimal(gpt.norm_eps)),
    ]);
    let activation = match gpt.feed_forward {
        FeedForwardKind::SwiGlu => "silu",
        _ => "gelu_pytorch_tanh",
    };
    let name = if family.is_gemma() { "hidden_activation" } else { "hidden_act" };
    fields.push((name, json!(activation)));
    fields.extend(of_rotation(family, gpt, has_rope_parameters));
    fields.extend(of_windows(family, gpt));
    if family == Family::Llama {
        fields.extend(["attention_bias", "mlp_bias"].map(|name| (name, json!(gpt.bias))));
    }
    if family.is_gemma() {
        fields.extend(of_gemma(gpt));
    }
    fields
}

fn of_gemma(gpt: &GptConfig) -> [(&'static str, Value); 3] {
    let cap = |cap: Option<f32>| cap.map_or(Value::Null, decimal);
    [
        ("query_pre_attn_scalar", scalar(gpt)),
        ("attn_logit_softcapping", cap(gpt.soft_cap)),
        ("final_logit_softcapping", cap(gpt.logit_soft_cap)),
    ]
}

fn of_gpt2(gpt: &GptConfig) -> [(&'static str, Value); 8] {
    let activation = match gpt.feed_forward {
        FeedForwardKind::Gelu => "gelu",
        _ => "gelu_new",
    };
    [
        ("n_positions", json!(gpt.context)),
        ("n_layer", json!(gpt.layers)),
        ("n_head", json!(gpt.heads)),
        ("n_embd", json!(gpt.width)),
        ("n_inner", json!(gpt.hidden)),
        ("activation_function", json!(activation)),
        ("layer_norm_epsilon", decimal(gpt.norm_eps)),
        ("scale_attn_weights", json!(gpt.attention_scale.is_none())),
    ]
}

fn of_windows(family: Family, gpt: &GptConfig) -> Vec<(&'static str, Value)> {
    if family == Family::Llama {
        return Vec::new();
    }
    let mut fields = vec![("sliding_window", json!(gpt.window))];
    if family == Family::Mistral {
        return fields;
    }
    let kind = |layer| match gpt.layer_kind(layer) {
        LayerKind::Full => "full_attention",
        LayerKind::Sliding => "sliding_attention",
    };
    let kinds: Vec<_> = (0..gpt.layers).map(kind).collect();
    fields.push(("layer_types", json!(kinds)));
    if family.is_qwen() {
        fields.push(("use_sliding_window", json!(gpt.window.is_some())));
    }
    fields
}

fn of_rotation(
    family: Family,
    gpt: &GptConfig,
    has_rope_parameters: bool,
) -> Vec<(&'static str, Value)> {
    let Positions::Rotary(rotary) = gpt.positions else { return Vec::new() };
    let sliding = gpt.window_rotary.unwrap_or(rotary);
    let is_gemma3 = family == Family::Gemma3;
    if has_rope_parameters {
        let full = parameters(rotary);
        let both = json!({"full_attention": full, "sliding_attention": parameters(sliding)});
        return vec![("rope_parameters", if is_gemma3 { both } else { full })];
    }
    let scaling = match rotary.scaling {
        RotaryScaling::None => Value::Null,
        scaling => Value::Object(of_scaling(scaling)),
    };
    let mut fields = vec![("rope_theta", json!(rotary.base)), ("rope_scaling", scaling)];
    if is_gemma3 {
        fields.push(("rope_local_base_freq", json!(sliding.base)));
    }
    fields
}

fn parameters(rotary: Rotary) -> Value {
    let mut object = of_scaling(rotary.scaling);
    object.insert("rope_theta".to_owned(), json!(rotary.base));
    Value::Object(object)
}

fn of_scaling(scaling: RotaryScaling) -> Map<String, Value> {
    let fields = match scaling {
        RotaryScaling::None => vec![("rope_type", json!("default"))],
        RotaryScaling::Linear { factor } => {
            vec![("rope_type", json!("linear")), ("factor", json!(factor))]
        }
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            vec![
                ("rope_type", json!("llama3")),
                ("factor", json!(factor)),
                ("low_freq_factor", json!(low_freq_factor)),
                ("high_freq_factor", json!(high_freq_factor)),
                ("original_max_position_embeddings", json!(original_context)),
            ]
        }
    };
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What the scale of attention logits is one over the root of: a whole number in all files.
fn scalar(gpt: &GptConfig) -> Value {
    let Some(scale) = gpt.attention_scale else { return json!(gpt.head_dim()) };
    let scalar = f64::from(scale).powi(-2);
    let whole = scalar.round();
    let is_whole = (scalar / whole - 1.0).abs() < 1e-6;
    if is_whole { json!(whole as u64) } else { json!(scalar) }
}

/// The shortest decimal number that is this one in f32, not the longer one that it is in f64.
pub(crate) fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
