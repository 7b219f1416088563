//! Families of models that differ in their settings alone: each against a forward pass in f64 that is
//! written down here from the formulas, position by position.

#[macro_use]
mod support;

use std::collections::HashMap;
use std::f64::consts::{PI, TAU};

use evenkeel::graph::{Graph, HostData, Node, Phase, Shape, Value};
use evenkeel::nn::{
    FeedForwardKind, Gpt, GptConfig, LanguageModel, LayerKind, Positions, QkNorm, Rotary,
    RotaryScaling,
};
use evenkeel::reference::elementwise::normal_cdf;
use evenkeel::train::Model;
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

/// The formulas: one sequence, every position on its own.
struct Formulas<'a> {
    config: &'a GptConfig,
    tensors: &'a HashMap<String, Vec<f64>>,
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl Formulas<'_> {
    fn tensor(&self, name: &str, kind: &str) -> Option<&Vec<f64>> {
        self.tensors.get(&format!("{name}.{kind}"))
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.tensor(name, "weight").expect("a weight").chunks(x.len());
        let mut y: Vec<_> = rows.map(|row| dot(row, x)).collect();
        self.tensor(name, "bias").into_iter().for_each(|bias| add(&mut y, bias));
        y
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let config = self.config;
        let weight = self.tensor(name, "weight").expect("a weight");
        let count = x.len() as f64;
        let mean = if config.rms_norm { 0.0 } else { x.iter().sum::<f64>() / count };
        let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let deviation = (square + f64::from(config.norm_eps)).sqrt();
        let offset = f64::from(config.norm_weight_offset);
        let scaled = x.iter().zip(weight).map(|(x, w)| (x - mean) / deviation * (offset + w));
        let mut y: Vec<_> = scaled.collect();
        self.tensor(name, "bias").into_iter().for_each(|bias| add(&mut y, bias));
        y
    }

    fn slides(&self, layer: usize) -> bool {
        let kinds = &self.config.layer_kinds;
        if kinds.is_empty() {
            self.config.window.is_some()
        } else {
            kinds[layer] == LayerKind::Sliding
        }
    }

    fn rotate(&self, layer: usize, t: usize, head: &mut [f64]) {
        let Positions::Rotary(everywhere) = self.config.positions else { return };
        let rotary = self.config.window_rotary.filter(|_| self.slides(layer)).unwrap_or(everywhere);
        let half = head.len() / 2;
        for j in 0..half {
            let plain = 1.0 / rotary.base.powf(j as f64 / half as f64);
            let angle = t as f64 * scaled_frequency(rotary.scaling, plain);
            let (a, b) = (head[j], head[j + half]);
            head[j] = a * angle.cos() - b * angle.sin();
            head[j + half] = b * angle.cos() + a * angle.sin();
        }
    }

    /// Queries, keys and values of a position, a head each.
    fn heads(&self, layer: usize, t: usize, x: &[f64]) -> Vec<Vec<f64>> {
        let GptConfig { heads, kv_heads, .. } = *self.config;
        let name = format!("blocks.{layer}.attention");
        let qkv = self.linear(&format!("{name}.qkv"), x);
        let of_head = |(i, head): (usize, &[f64])| {
            let mut head = head.to_vec();
            if i < heads + kv_heads {
                if self.config.qk_norm.is_some() {
                    let norm = if i < heads { "q_norm" } else { "k_norm" };
                    head = self.norm(&format!("{name}.{norm}"), &head);
                }
                self.rotate(layer, t, &mut head);
            }
            head
        };
        qkv.chunks(qkv.len() / (heads + 2 * kv_heads)).enumerate().map(of_head).collect()
    }

    fn attention(&self, layer: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let GptConfig { heads, kv_heads, attention_scale, soft_cap, window, .. } = *self.config;
        let all: Vec<_> = x.iter().enumerate().map(|(t, x)| self.heads(layer, t, x)).collect();
        let columns = all[0][0].len();
        let scale = f64::from(attention_scale.unwrap_or(1.0 / (columns as f32).sqrt()));
        let sees = |t: usize, j: usize| {
            j <= t && (!self.slides(layer) || t - j < window.expect("a window"))
        };
        let of_head = |t: usize, head: usize| {
            let group = head / (heads / kv_heads);
            let mut total = 0.0;
            let mut mixed = vec![0.0; columns];
            for j in (0..x.len()).filter(|&j| sees(t, j)) {
                let score = scale * dot(&all[t][head], &all[j][heads + group]);
                let cap = soft_cap.map(f64::from);
                let weight = cap.map_or(score, |cap| cap * (score / cap).tanh()).exp();
                total += weight;
                let value = &all[j][heads + kv_heads + group];
                mixed.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * v);
            }
            mixed.into_iter().map(move |sum| sum / total)
        };
        let projection = format!("blocks.{layer}.attention.projection");
        let of_position = |t: usize| {
            let mixed: Vec<_> = (0..heads).flat_map(|head| of_head(t, head)).collect();
            self.linear(&projection, &mixed)
        };
        (0..x.len()).map(of_position).collect()
    }

    fn feed_forward(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let name = |part: &str| format!("blocks.{layer}.mlp.{part}");
        let gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gated = |f: &dyn Fn(f64) -> f64| {
            let both = self.linear(&name("gate_up"), x);
            let (gate, up) = both.split_at(both.len() / 2);
            gate.iter().zip(up).map(|(&gate, up)| f(gate) * up).collect::<Vec<_>>()
        };
        let plain = |f: &dyn Fn(f64) -> f64| {
            self.linear(&name("up"), x).into_iter().map(f).collect::<Vec<_>>()
        };
        let hidden = match self.config.feed_forward {
            FeedForwardKind::Gelu => plain(&|x| x * normal_cdf(x)),
            FeedForwardKind::GeluTanh => plain(&gelu_tanh),
            FeedForwardKind::SwiGlu => gated(&silu),
            FeedForwardKind::GeGlu => gated(&gelu_tanh),
        };
        self.linear(&name("down"), &hidden)
    }

    /// What a branch adds to the stream.
    fn branch(&self, norm: &str, x: Vec<f64>) -> Vec<f64> {
        if self.config.post_norms { self.norm(norm, &x) } else { x }
    }

    fn logits(&self, ids: &[f64]) -> Vec<f64> {
        let config = self.config;
        let rows = |name: &str| self.tensor(name, "weight").expect("a table").chunks(config.width);
        let row = |name: &str, index: usize| rows(name).nth(index).expect("a row").to_vec();
        let mut stream: Vec<_> =
            ids.iter().map(|&id| row("token_embedding", id as usize)).collect();
        for (t, x) in stream.iter_mut().enumerate() {
            let scale = config.embedding_scale.map_or(1.0, f64::from);
            x.iter_mut().for_each(|x| *x *= scale);
            if config.positions == Positions::Learned {
                add(x, &row("position_embedding", t));
            }
        }
        for layer in 0..config.layers {
            let name = |part: &str| format!("blocks.{layer}.{part}");
            let normed: Vec<_> = stream.iter().map(|x| self.norm(&name("norm1"), x)).collect();
            for (x, y) in stream.iter_mut().zip(self.attention(layer, &normed)) {
                add(x, &self.branch(&name("post_attention_norm"), y));
                let y = self.feed_forward(layer, &self.norm(&name("norm2"), x));
                add(x, &self.branch(&name("post_mlp_norm"), y));
            }
        }
        let head = if config.tied_head { "token_embedding" } else { "head" };
        let of_position = |x: &Vec<f64>| self.linear(head, &self.norm("norm", x));
        let cap = config.logit_soft_cap.map(f64::from);
        let capped = |x: f64| cap.map_or(x, |cap| cap * (x / cap).tanh());
        stream.iter().flat_map(of_position).map(capped).collect()
    }
}

/// By wavelengths, as transformers has it.
fn scaled_frequency(scaling: RotaryScaling, plain: f64) -> f64 {
    match scaling {
        RotaryScaling::None => plain,
        RotaryScaling::Linear { factor } => plain / factor,
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let context = original_context as f64;
            let wavelength = TAU / plain;
            if wavelength < context / high_freq_factor {
                return plain;
            }
            if wavelength > context / low_freq_factor {
                return plain / factor;
            }
            let smooth =
                (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - smooth) * plain / factor + smooth * plain
        }
    }
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

/// In the words of checkpoints, whatever tensors do not show; of forms that say nothing new, the words
/// that they always had.
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
