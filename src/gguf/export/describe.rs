//! From a model to the metadata that llama.cpp needs of it.

use std::collections::BTreeMap;

use super::super::config::ARCHITECTURES;
use super::super::value::Value;
use crate::hugging_face::Family;
use crate::nn::{GptConfig, LayerKind, Positions, RotaryScaling};

/// The period of Gemma 3's windows where a file does not say.
const USUAL_PERIOD: usize = 6;
/// The base of its short rotation where a file does not say.
const SHORT_BASE: f64 = 1e4;

type Described = Vec<(&'static str, Value)>;

/// llama.cpp's name for models of a family. Mistral's are Llamas there.
pub(super) fn architecture(family: Family) -> &'static str {
    let read_as = if family == Family::Mistral { Family::Llama } else { family };
    let found = ARCHITECTURES.into_iter().find(|(_, family)| *family == read_as);
    found.map_or("llama", |(name, _)| name)
}

/// All settings of a model, as far as there are names for them. Whether that is all of the model
/// shows when they are read again.
pub(super) fn describe(family: Family, gpt: &GptConfig) -> BTreeMap<String, Value> {
    let mut settings = vec![
        ("block_count", count(gpt.layers)),
        ("context_length", count(gpt.context)),
        ("embedding_length", count(gpt.width)),
        ("feed_forward_length", count(gpt.hidden)),
        ("attention.head_count", count(gpt.heads)),
        ("attention.head_count_kv", count(gpt.kv_heads)),
    ];
    if family == Family::Gpt2 {
        settings.push(("attention.layer_norm_epsilon", Value::F32(gpt.norm_eps)));
    } else {
        settings.extend(of_llama(family, gpt));
    }
    let architecture = architecture(family);
    let own = settings.into_iter().map(|(name, value)| (format!("{architecture}.{name}"), value));
    let general = [("architecture", architecture), ("type", "model")]
        .map(|(name, text)| (format!("general.{name}"), Value::String(text.to_owned())));
    own.chain(general).collect()
}

/// A size that is too large becomes another, which shows when it is read again.
fn count(count: usize) -> Value {
    Value::U32(u32::try_from(count).unwrap_or(u32::MAX))
}

fn of_llama(family: Family, gpt: &GptConfig) -> Described {
    let columns = count(gpt.head_dim());
    let mut settings = vec![
        ("attention.layer_norm_rms_epsilon", Value::F32(gpt.norm_eps)),
        ("attention.key_length", columns.clone()),
        ("attention.value_length", columns.clone()),
    ];
    if matches!(family, Family::Llama | Family::Mistral) {
        settings.push(("rope.dimension_count", columns));
        settings.push(("vocab_size", count(gpt.vocabulary)));
    }
    settings.extend(of_rotation(family, gpt));
    // Where there is no name for a thing, the model that is read again is another.
    let is_qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    if let Some(window) = gpt.window.filter(|_| !is_qwen) {
        settings.push(("attention.sliding_window", count(window)));
    }
    if family == Family::Gemma3 {
        settings.extend(period(gpt).map(|p| ("attention.sliding_window_pattern", count(p))));
    }
    let mut cap = |name, cap: Option<f32>| {
        settings.extend(cap.map(|cap| (name, Value::F32(cap))));
    };
    if family == Family::Gemma2 {
        cap("attn_logit_softcapping", gpt.soft_cap);
    }
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        cap("final_logit_softcapping", gpt.logit_soft_cap);
    }
    settings
}

/// Llama 3's scaling is no setting, but a tensor of factors.
fn of_rotation(family: Family, gpt: &GptConfig) -> Described {
    let Positions::Rotary(rotary) = gpt.positions else { return Vec::new() };
    let mut settings = vec![("rope.freq_base", Value::F32(rotary.base as f32))];
    if let RotaryScaling::Linear { factor } = rotary.scaling {
        settings.push(("rope.scaling.type", Value::String("linear".to_owned())));
        settings.push(("rope.scaling.factor", Value::F32(factor as f32)));
    }
    let short = gpt.window_rotary.filter(|_| family == Family::Gemma3);
    if let Some(short) = short.filter(|short| short.base != SHORT_BASE) {
        settings.push(("rope.freq_base_swa", Value::F32(short.base as f32)));
    }
    settings
}

/// Which layer of how many sees all, where that is not the usual one.
fn period(gpt: &GptConfig) -> Option<usize> {
    gpt.window?;
    let kinds: Vec<_> = (0..gpt.layers).map(|layer| gpt.layer_kind(layer)).collect();
    let is = |period: usize| LayerKind::every(period, gpt.layers) == kinds;
    (!is(USUAL_PERIOD)).then(|| (1..=gpt.layers + 1).find(|&period| is(period))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_families_have_a_name() {
        let names = Family::ALL.map(architecture);
        assert_eq!(names, ["gpt2", "llama", "llama", "qwen2", "qwen3", "gemma2", "gemma3"]);
    }

    #[test]
    fn windows_have_a_period() {
        let of = |layer_kinds: Vec<LayerKind>, layers| {
            let gpt = GptConfig::llama(11, 32, layers, [2, 1], 16);
            period(&GptConfig { window: Some(4), layer_kinds, ..gpt })
        };
        assert_eq!(of(LayerKind::every(2, 4), 4), Some(2));
        assert_eq!(of(LayerKind::every(6, 12), 12), None);
        assert_eq!(of(vec![LayerKind::Full, LayerKind::Sliding], 2), None);
    }
}
