//! Families of models that differ in their settings alone: each against a forward pass in f64 that
//! is written down from the formulas.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod formulas;

use std::collections::HashMap;

use evenkeel::graph::{Graph, HostData, Node, Phase, Shape, Value};
use evenkeel::nn::{
    FeedForwardKind, Gpt, GptConfig, LanguageModel, LayerKind, Positions, QkNorm, Rotary,
    RotaryScaling,
};
use evenkeel::train::Model;
use formulas::{Formulas, dot};
use support::recorded::Recorded;
use support::{Tolerance, assert_close, tokens, values, wide};

tests! {
    evaluations_are_what_the_formulas_say, devices_agree_with_the_evaluation,
    tensors_have_the_families_names, layers_of_a_kind_share_a_table,
    checkpoints_tell_families_apart,
}

const VOCABULARY: usize = 11;
const BATCH: usize = 2;
const TIME: usize = 10;

fn llama(layers: usize) -> GptConfig {
    GptConfig { hidden: 20, ..GptConfig::llama(VOCABULARY, 12, layers, [4, 2], 32) }
}

/// Llama 3.1's angles, for pairs of each of the three kinds.
const LLAMA3: Rotary = Rotary {
    base: 500.0,
    scaling: RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 40,
    },
};

/// What Gemma 2 and 3 have in common.
fn gemma(layers: usize, period: usize, window: usize) -> GptConfig {
    GptConfig {
        width: 24,
        head_dim: Some(8),
        tied_head: true,
        window: Some(window),
        layer_kinds: LayerKind::every(period, layers),
        norm_weight_offset: 1.0,
        post_norms: true,
        feed_forward: FeedForwardKind::GeGlu,
        embedding_scale: Some(24f32.sqrt()),
        attention_scale: Some(0.3),
        norm_eps: 1e-6,
        ..llama(layers)
    }
}

/// Settings by the name of their family.
fn families() -> Vec<(&'static str, GptConfig)> {
    let linear = RotaryScaling::Linear { factor: 8.0 };
    let gemma2 = GptConfig { soft_cap: Some(5.0), logit_soft_cap: Some(3.0), ..gemma(2, 2, 4) };
    let gemma3 = GptConfig {
        positions: Positions::Rotary(Rotary { base: 1e6, scaling: linear }),
        window_rotary: Some(Rotary::new(1e4)),
        qk_norm: Some(QkNorm::Rms),
        ..gemma(3, 3, 3)
    };
    let exact = FeedForwardKind::Gelu;
    vec![
        ("gpt2", GptConfig::gpt2(VOCABULARY, 12, 2, 2, 16)),
        (
            "exact gelu",
            GptConfig { feed_forward: exact, ..GptConfig::gpt2(VOCABULARY, 12, 1, 2, 16) },
        ),
        ("llama", llama(2)),
        ("llama3", GptConfig { positions: Positions::Rotary(LLAMA3), tied_head: true, ..llama(2) }),
        ("mistral", GptConfig { window: Some(5), ..llama(2) }),
        ("qwen2", GptConfig { qkv_bias: true, tied_head: true, ..llama(2) }),
        ("qwen3", GptConfig { head_dim: Some(16), qk_norm: Some(QkNorm::Rms), ..llama(2) }),
        ("gemma2", gemma2),
        ("gemma3", gemma3),
    ]
}

fn family(name: &str) -> GptConfig {
    families().into_iter().find(|family| family.0 == name).expect("a family").1
}

/// A model's graph with data for all of its leaves, differentiated.
struct Built {
    graph: Graph,
    data: HostData,
    logits: Value,
    loss: Value,
}

fn build(config: &GptConfig) -> Built {
    let gpt = Gpt::new(config.clone()).expect("valid");
    let mut graph = Graph::new(Phase::Train);
    let ids = graph.tokens("tokens", [BATCH, TIME], VOCABULARY);
    let logits = gpt.logits(&mut graph, ids);
    let dims = [BATCH, TIME, VOCABULARY];
    let target = values(77, BATCH * TIME * VOCABULARY);
    let target = graph.constant("target", Shape::real(dims), &target);
    let loss = graph.mean_squared_error(logits, target);
    graph.backward(loss, 1.0);
    let mut data = HostData::default();
    for (seed, spec) in (100u64..).zip(graph.parameters()) {
        let scaled = values(seed, spec.shape.count()).into_iter().map(|x| 0.4 * x);
        data.values.insert(spec.name.clone(), wide(&scaled.collect::<Vec<_>>()));
    }
    let ids = tokens(5, BATCH * TIME, VOCABULARY as u32);
    data.values.insert("tokens".into(), ids.into_iter().map(f64::from).collect());
    Built { graph, data, logits, loss }
}

fn evaluations_are_what_the_formulas_say() {
    for (name, config) in families() {
        let Built { graph, data, logits, loss } = build(&config);
        let evaluation = graph.evaluate(&data);
        let formulas = Formulas { config: &config, tensors: &data.values };
        let expected: Vec<_> =
            data.values["tokens"].chunks(TIME).flat_map(|ids| formulas.logits(ids)).collect();
        let actual = evaluation.get(logits);
        assert_eq!(actual.len(), expected.len(), "{name}");
        for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            let off = (actual - expected).abs();
            assert!(off < 1e-9, "{name}: logit {i} is {actual}, the formulas say {expected}");
        }

        // The slope along a line on which all tensors change.
        let gradients = graph.evaluated_gradients(&evaluation);
        let names = || graph.parameters().iter().map(|spec| &spec.name);
        let direction = |seed, count| wide(&values(seed, count));
        let slopes = (500u64..).zip(&gradients);
        let slope: f64 = slopes.map(|(seed, g)| dot(&direction(seed, g.len()), g)).sum();
        let at = |step: f64| {
            let mut moved = data.clone();
            for (seed, name) in (500u64..).zip(names()) {
                let tensor = moved.values.get_mut(name).expect("a tensor");
                let line = direction(seed, tensor.len());
                tensor.iter_mut().zip(line).for_each(|(x, d)| *x += step * d);
            }
            graph.evaluate(&moved).get(loss)[0]
        };
        let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
        let off = (numeric - slope).abs();
        assert!(off < 1e-6 * (1.0 + slope.abs()), "{name}: slope {slope}, numeric {numeric}");
    }
}

fn devices_agree_with_the_evaluation() {
    let gpus = [support::gpu(), support::gpu_with_hardware_kernels()];
    for gpu in gpus.into_iter().flatten() {
        for (name, config) in families() {
            let Built { graph, data, logits, .. } = build(&config);
            let evaluation = graph.evaluate(&data);
            let recorded = Recorded::new(&gpu, &graph, &data, &[logits]);
            recorded.run(&recorded.plan.first);
            let close = |what: &str, actual: &[f32], expected: &[f64]| {
                let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
                let because = "f32 against f64 through a small model, relative to the largest";
                let absolute = 1e-4 * largest + 1e-7;
                let tolerance = Tolerance { absolute, relative: 0.0, because };
                assert_close(&format!("{name}: {what}"), actual, expected, tolerance);
            };
            close("logits", &recorded.output(0), evaluation.get(logits));
            let gradients = graph.evaluated_gradients(&evaluation);
            for (index, (spec, expected)) in graph.parameters().iter().zip(&gradients).enumerate() {
                close(&spec.name, &recorded.gradient(index), expected);
            }
        }
    }
}

fn shapes(config: &GptConfig) -> HashMap<String, Vec<usize>> {
    let Built { graph, .. } = build(config);
    let named =
        |spec: &evenkeel::graph::ParameterSpec| (spec.name.clone(), spec.shape.dims.clone());
    graph.parameters().iter().map(named).collect()
}

fn tensors_have_the_families_names() {
    let gemma3 = shapes(&family("gemma3"));
    for (name, dims) in [
        ("token_embedding.weight", &[11, 24][..]),
        ("blocks.2.norm1.weight", &[24]),
        ("blocks.2.attention.qkv.weight", &[64, 24]),
        ("blocks.2.attention.q_norm.weight", &[8]),
        ("blocks.2.attention.k_norm.weight", &[8]),
        ("blocks.2.attention.projection.weight", &[24, 32]),
        ("blocks.2.post_attention_norm.weight", &[24]),
        ("blocks.2.norm2.weight", &[24]),
        ("blocks.2.mlp.gate_up.weight", &[40, 24]),
        ("blocks.2.mlp.down.weight", &[24, 20]),
        ("blocks.2.post_mlp_norm.weight", &[24]),
        ("norm.weight", &[24]),
    ] {
        assert_eq!(gemma3.get(name).map(Vec::as_slice), Some(dims), "{name}");
    }
    assert_eq!(gemma3.len(), 1 + 3 * 10 + 1, "{gemma3:?}");

    let qwen2 = shapes(&family("qwen2"));
    let mut biases: Vec<_> = qwen2.keys().filter(|name| name.ends_with(".bias")).collect();
    biases.sort_unstable();
    assert_eq!(biases, ["blocks.0.attention.qkv.bias", "blocks.1.attention.qkv.bias"]);
    let qwen3 = shapes(&family("qwen3"));
    assert_eq!(qwen3["blocks.0.attention.qkv.weight"], [128, 32]);
    assert_eq!(qwen3["blocks.0.attention.projection.weight"], [32, 64]);
}

/// Layers share what they turn by: one table for each kind of them.
fn layers_of_a_kind_share_a_table() {
    for (name, tables) in [("gpt2", 0), ("llama", 1), ("gemma2", 1), ("gemma3", 2)] {
        let Built { graph, .. } = build(&family(name));
        let is_table = |node: &&Node| node.label == "rotary table";
        assert_eq!(graph.nodes().iter().filter(is_table).count(), tables, "{name}");
    }
}

/// In the words of checkpoints, whatever tensors do not show; of forms that say nothing new, the
/// words that they always had.
fn checkpoints_tell_families_apart() {
    let words = |config: GptConfig| {
        let gpt = Gpt::new(config).expect("valid");
        LanguageModel { gpt, batch: BATCH, time: TIME }.configuration()
    };
    let gpt2 = "heads 2, kv_heads 2, positions Learned, qk_norm None";
    assert_eq!(words(family("gpt2")), gpt2);
    let llama = "heads 4, kv_heads 2, positions Rotary(10000.0), qk_norm None";
    assert_eq!(words(family("llama")), llama);
    assert_eq!(words(family("mistral")), format!("{llama}, window 5"));
    assert_eq!(words(family("exact gelu")), format!("{gpt2}, feed_forward Gelu"));
    let gemma = family("gemma3");
    let changed = [
        GptConfig { window: Some(4), ..gemma.clone() },
        GptConfig { layer_kinds: LayerKind::every(2, 3), ..gemma.clone() },
        GptConfig { window_rotary: None, ..gemma.clone() },
        GptConfig { positions: Positions::Rotary(Rotary::new(1e6)), ..gemma.clone() },
        GptConfig { attention_scale: None, ..gemma.clone() },
        GptConfig { embedding_scale: None, ..gemma.clone() },
        GptConfig { norm_weight_offset: 0.0, ..gemma.clone() },
        GptConfig { feed_forward: FeedForwardKind::SwiGlu, ..gemma.clone() },
    ];
    let all: Vec<_> = changed.into_iter().chain([gemma]).map(words).collect();
    for (i, one) in all.iter().enumerate() {
        assert!(!all[..i].contains(one), "twice: {one}");
    }
}
