//! What metadata say of a model, and what is wrong with them.

use evenkeel::nn::{GptConfig, LayerKind, Positions, Rotary, RotaryScaling};

use super::converted::{config_of, converted, error, moderate, open};
use super::folders;
use super::models::{self, *};
use super::tensors;
use super::writer::{Encoded, Tensor, Writer, bool, f32, list, text, u32};

fn with(model: &str, change: impl Fn(&mut Writer)) -> Writer {
    let mut writer = converted(model, &moderate(model));
    change(&mut writer);
    writer
}

fn set(model: &str, name: &str, value: Encoded) -> Writer {
    with(model, |writer| writer.set(name, Some(value.clone())))
}

fn unset(model: &str, name: &str) -> Writer {
    with(model, |writer| writer.set(name, None))
}

fn read(writer: &Writer) -> GptConfig {
    open(writer).config().gpt.clone()
}

pub fn configurations_are_those_of_the_folder() {
    for model in models::ALL {
        let tensors = moderate(model);
        let file = open(&converted(model, &tensors));
        let folder = folders::open(tensors::folder(&config_of(model), &tensors));
        assert_eq!(file.config().gpt, folder.config().gpt, "{model}");
        assert_eq!(file.config().family(), folder.config().family());
    }
}

pub fn windows_and_scalings_are_read() {
    use LayerKind::{Full, Sliding};
    // No window, in a file that says so with 0 too.
    for writer in [
        unset(MISTRAL, "llama.attention.sliding_window"),
        set(MISTRAL, "llama.attention.sliding_window", u32(0)),
    ] {
        assert_eq!(read(&writer).window, None);
    }
    let pattern = "gemma3.attention.sliding_window_pattern";
    let kinds = |value| read(&set(GEMMA3, pattern, value)).layer_kinds;
    assert_eq!(kinds(list(7, &[bool(0), bool(1)])), [Full, Sliding]);
    assert_eq!(read(&set(GEMMA3, pattern, u32(1))).window, None);
    let all = read(&set(GEMMA3, pattern, u32(0)));
    assert_eq!((all.window, all.layer_kinds.len()), (Some(4), 0));
    // Every sixth layer sees all, of which there is none here.
    let usual = read(&unset(GEMMA3, pattern));
    assert_eq!((usual.window, usual.layer_kinds.len()), (Some(4), 0));
    assert_eq!(read(&unset(GEMMA3, "gemma3.attention.sliding_window")).window, None);
    let default = read(&unset(GEMMA2, "gemma2.attention.sliding_window"));
    assert_eq!((default.window, default.layer_kinds), (Some(4096), vec![Sliding, Full, Sliding]));
    let caps = with(GEMMA2, |writer| {
        writer.set("gemma2.attn_logit_softcapping", None);
        writer.set("gemma2.final_logit_softcapping", Some(f32(20.0)));
    });
    assert_eq!((read(&caps).soft_cap, read(&caps).logit_soft_cap), (Some(50.0), Some(20.0)));
    let local = read(&set(GEMMA3, "gemma3.rope.freq_base_swa", f32(500.0)));
    assert_eq!(local.window_rotary, Some(Rotary::new(500.0)));

    let rotary = |writer: &Writer| match read(writer).positions {
        Positions::Rotary(rotary) => rotary,
        Positions::Learned => panic!("learned"),
    };
    let linear = RotaryScaling::Linear { factor: 2.5 };
    for name in ["scaling.factor", "scale_linear"] {
        let scaled = rotary(&set(SMOLLM, &format!("llama.rope.{name}"), f32(2.5)));
        assert_eq!(scaled, Rotary { base: 1e5, scaling: linear }, "{name}");
    }
    for factor in [0.0, 1.0] {
        let plain = rotary(&set(SMOLLM, "llama.rope.scaling.factor", f32(factor)));
        assert_eq!(plain, Rotary::new(1e5));
    }
    assert_eq!(rotary(&unset(SMOLLM, "llama.rope.freq_base")), Rotary::new(1e4));
    let ones = with(LLAMA, |writer| {
        *writer.tensor("rope_freqs.weight") = Tensor::f32("rope_freqs.weight", &[4], &[1.0; 4]);
    });
    assert_eq!(rotary(&ones), Rotary::new(500_000.0));
    // A number for each layer, as long as it is the same one.
    let heads = list(4, &[u32(2), u32(2)]);
    assert_eq!(read(&set(LLAMA, "llama.attention.head_count", heads)).heads, 2);
    let biased = with(SMOLLM, |writer| {
        for name in ["attn_q", "ffn_up"] {
            writer.tensors.push(Tensor::f32(&format!("blk.0.{name}.bias"), &[1], &[0.0]));
        }
    });
    assert!(read(&biased).bias);
}

/// Gemma's largest models, whose scale of attention no file says.
fn largest(model: &str, layers: u32) -> Option<f32> {
    let architecture = if model == GEMMA2 { "gemma2" } else { "gemma3" };
    let mut writer = set(model, &format!("{architecture}.block_count"), u32(layers));
    writer.set(&format!("{architecture}.attention.sliding_window_pattern"), None);
    // As many as layers, so that there can be so many.
    let spare = |index| Tensor::f32(&format!("spare.{index}"), &[1], &[0.0]);
    writer.tensors.extend((0..layers).map(spare));
    read(&writer).attention_scale
}

pub fn what_is_not_here_is_named_with_its_value() {
    for (model, layers) in [(GEMMA2, 46), (GEMMA3, 62)] {
        // Width 16 over 2 heads, in the place of a head's 16 columns.
        assert_eq!(largest(model, layers), Some(8f64.sqrt().recip() as f32));
        assert_eq!(largest(model, layers - 1), None);
    }
    let factors = |factors: &[f32]| {
        with(LLAMA, |writer| {
            *writer.tensor("rope_freqs.weight") =
                Tensor::f32("rope_freqs.weight", &[factors.len() as u64], factors);
        })
    };
    for (writer, messages) in [
        (
            set(SMOLLM, "general.architecture", text("mixtral")),
            &["general.architecture is \"mixtral\"", "gpt2, llama"][..],
        ),
        (unset(SMOLLM, "general.architecture"), &["general.architecture is missing"]),
        (set(SMOLLM, "general.type", text("adapter")), &["general.type is \"adapter\""]),
        (set(SMOLLM, "split.count", u32(3)), &["split.count is 3", "--merge"]),
        (
            set(SMOLLM, "general.quantization_version", u32(1)),
            &["general.quantization_version is 1"],
        ),
        (unset(SMOLLM, "llama.context_length"), &["llama.context_length is missing"]),
        (
            unset(SMOLLM, "llama.attention.layer_norm_rms_epsilon"),
            &["llama.attention.layer_norm_rms_epsilon is missing"],
        ),
        (
            set(SMOLLM, "llama.attention.layer_norm_rms_epsilon", f32(f32::NAN)),
            &["layer_norm_rms_epsilon is \"NaN\", not a number"],
        ),
        (
            set(SMOLLM, "llama.embedding_length", f32(16.0)),
            &["llama.embedding_length is 16.0, not a count"],
        ),
        (set(SMOLLM, "llama.expert_count", u32(8)), &["llama.expert_count is 8, and only 0"]),
        (set(SMOLLM, "llama.logit_scale", f32(0.5)), &["llama.logit_scale is 0.5", "not known"]),
        (set(SMOLLM, "llama.attention.causal", bool(0)), &["attention.causal is false"]),
        (
            set(SMOLLM, "llama.rope.dimension_count", u32(4)),
            &["llama.rope.dimension_count is 4, and not 8"],
        ),
        (
            set(QWEN3, "qwen3.attention.value_length", u32(8)),
            &["qwen3.attention.value_length is 8, and not 16"],
        ),
        (set(SMOLLM, "llama.vocab_size", u32(12)), &["llama.vocab_size is 12, and not 11"]),
        (
            set(SMOLLM, "llama.rope.scaling.type", text("yarn")),
            &["llama.rope.scaling.type is \"yarn\"; supported are none and linear"],
        ),
        (
            set(GEMMA3, "gemma3.rope.scaling.type", text("none")),
            &["gemma3.rope.scaling.factor is 8.0, with rope.scaling.type none"],
        ),
        (
            set(SMOLLM, "llama.rope.scaling.attn_factor", f32(0.5)),
            &["llama.rope.scaling.attn_factor is 0.5, and only 1.0"],
        ),
        (
            set(QWEN2, "qwen2.attention.sliding_window", u32(5)),
            &["qwen2.attention.sliding_window is 5", "not known"],
        ),
        (
            set(GEMMA3, "gemma3.attn_logit_softcapping", f32(5.0)),
            &["gemma3.attn_logit_softcapping is 5.0"],
        ),
        (
            set(GEMMA3, "gemma3.attention.sliding_window_pattern", list(7, &[bool(1)])),
            &["sliding_window_pattern is [true], neither"],
        ),
        (
            set(GEMMA3, "gemma3.attention.sliding_window_pattern", list(4, &[u32(1), u32(1)])),
            &["sliding_window_pattern is [1,1], neither"],
        ),
        (
            set(SMOLLM, "llama.attention.head_count", list(4, &[u32(2), u32(1)])),
            &["llama.attention.head_count is [2,1], not a count"],
        ),
        (set(SMOLLM, "llama.block_count", u32(u32::MAX)), &["llama.block_count is 4294967295"]),
        (set(GPT2, "gpt2.attention.head_count_kv", u32(1)), &["head_count_kv is 1, and not 2"]),
        (
            set(SMOLLM, "llama.attention.head_count", u32(3)),
            &["llama.embedding_length is 16, no multiple of attention.head_count"],
        ),
        (
            with(SMOLLM, |writer| {
                let bias = Tensor::f32("blk.0.attn_q.bias", &[16], &[0.0; 16]);
                writer.tensors.push(bias);
            }),
            &["as a config.json: mlp_bias is false, and attention_bias is not"],
        ),
        (with(SMOLLM, |writer| writer.tensors.clear()), &["there is no token_embd.weight"]),
        (factors(&[1.0; 5]), &["rope_freqs.weight has the shape [5], and the model wants [4]"]),
        (factors(&[1.0, 2.0, 3.0, 4.0]), &["rope_freqs.weight holds [1.0, 2.0, 3.0, 4.0]"]),
        (
            set(LLAMA, "llama.rope.scaling.factor", f32(2.0)),
            &["rope_freqs.weight scales, and rope.scaling.factor does too"],
        ),
    ] {
        let error = error(&writer);
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
    }
    // All at once.
    let mut several = set(SMOLLM, "llama.expert_count", u32(8));
    several.set("llama.logit_scale", Some(f32(0.5)));
    let error = error(&several);
    assert!(error.contains("expert_count") && error.contains("logit_scale"), "{error}");
}
