//! Models that were loaded compute what transformers does: against a forward pass in f64 over the
//! tensors of the folder, written as transformers writes it and sharing nothing with the library.

use std::collections::HashMap;
use std::f64::consts::{PI, TAU};

use evenkeel::graph::{Graph, HostData, Phase};
use evenkeel::nn::Gpt;

use super::folders::{loaded, open, values};
use super::models::*;
use super::support::{self, tokens};
use super::tensors::{Tensor, folder};

/// Longer than every window.
const TIME: usize = 9;
const VOCABULARY: usize = 11;

/// The library has rotations, scales and epsilons in f32.
const ROUNDED: f64 = 1e-5;

/// Rows of columns.
type Rows = Vec<Vec<f64>>;
/// Tensors of the folder by name.
type Weights = HashMap<String, Vec<f64>>;

/// What a configuration says, read by eye.
struct Form {
    config: &'static str,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    eps: f64,
    /// On q·k.
    scale: f64,
    /// Gemma's norms and embedding, GELU, and norms behind.
    is_gemma: bool,
    soft_cap: Option<f64>,
    logit_soft_cap: Option<f64>,
    is_tied: bool,
    window: fn(usize) -> Option<usize>,
    /// By layer, pair of columns and columns of a head.
    frequency: fn(usize, f64, f64) -> f64,
}

fn power(base: f64, pair: f64, head: f64) -> f64 {
    1.0 / base.powf(2.0 * pair / head)
}

/// transformers' `_compute_llama3_parameters` with the numbers of [`LLAMA`].
fn llama3(_: usize, pair: f64, head: f64) -> f64 {
    let (factor, low, high, original) = (32.0, 1.0, 4.0, 16.0);
    let plain = power(500_000.0, pair, head);
    let wavelength = TAU / plain;
    if wavelength < original / high {
        plain
    } else if wavelength > original / low {
        plain / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * plain / factor + smooth * plain
    }
}

fn gemma3(layer: usize, pair: f64, head: f64) -> f64 {
    match layer {
        0 => power(10_000.0, pair, head),
        _ => power(1e6, pair, head) / 8.0,
    }
}

fn forms() -> Vec<Form> {
    let llama = |config, layers| Form {
        config,
        layers,
        heads: 2,
        kv_heads: 1,
        eps: 1e-5,
        scale: 1.0 / 8f64.sqrt(),
        is_gemma: false,
        soft_cap: None,
        logit_soft_cap: None,
        is_tied: true,
        window: |_| None,
        frequency: |_, pair, head| power(1e6, pair, head),
    };
    let gemma = |config, layers| Form { eps: 1e-6, is_gemma: true, ..llama(config, layers) };
    let smollm = |_: usize, pair: f64, head: f64| power(100_000.0, pair, head);
    let short = |_: usize, pair: f64, head: f64| power(10_000.0, pair, head);
    vec![
        Form { frequency: llama3, ..llama(LLAMA, 2) },
        Form { frequency: smollm, is_tied: false, ..llama(SMOLLM, 1) },
        Form { frequency: short, is_tied: false, window: |_| Some(6), ..llama(MISTRAL, 2) },
        Form { eps: 1e-6, ..llama(QWEN2, 2) },
        Form { eps: 1e-6, scale: 0.25, ..llama(QWEN3, 2) },
        Form {
            frequency: short,
            scale: 1.0 / 3.0,
            soft_cap: Some(50.0),
            logit_soft_cap: Some(30.0),
            window: |layer| (layer != 1).then_some(4),
            ..gemma(GEMMA2, 3)
        },
        Form {
            frequency: gemma3,
            scale: 0.25,
            window: |layer| (layer == 0).then_some(4),
            ..gemma(GEMMA3, 2)
        },
    ]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn added(a: &[Vec<f64>], b: &[Vec<f64>]) -> Rows {
    let rows = a.iter().zip(b);
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

fn linear(x: &[Vec<f64>], weight: &[f64], bias: Option<&Vec<f64>>) -> Rows {
    let row = |x: &Vec<f64>| -> Vec<f64> {
        let products = weight.chunks(x.len()).map(|row| dot(row, x));
        match bias {
            Some(bias) => products.zip(bias).map(|(y, b)| y + b).collect(),
            None => products.collect(),
        }
    };
    x.iter().map(row).collect()
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<_> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Attention of heads in rows of q, k and v, each over the last positions of its window.
fn attended([q, k, v]: [&Rows; 3], head: usize, form: &Form, window: Option<usize>) -> Rows {
    let group = form.heads / form.kv_heads;
    let mut all = Vec::new();
    for (at, q) in q.iter().enumerate() {
        let first = window.map_or(0, |window| (at + 1).saturating_sub(window));
        let mut row = Vec::new();
        for (index, q) in q.chunks(head).enumerate() {
            let columns = index / group * head..(index / group + 1) * head;
            let score = |k: &Vec<f64>| {
                let score = dot(q, &k[columns.clone()]) * form.scale;
                form.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let weights = softmax(&k[first..=at].iter().map(score).collect::<Vec<_>>());
            row.extend(columns.map(|column| {
                let values = v[first..=at].iter().map(|v| v[column]);
                weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>()
            }));
        }
        all.push(row);
    }
    all
}

/// All models but GPT-2, with a name for each thing as in transformers' `modeling_llama.py` and its
/// descendants.
struct Llama<'a> {
    form: &'a Form,
    weights: &'a Weights,
}

impl Llama<'_> {
    fn weight(&self, name: &str) -> &Vec<f64> {
        self.weights.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn rms_norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = dot(x, x) / x.len() as f64;
        let factor = 1.0 / (mean + self.form.eps).sqrt();
        let offset = if self.form.is_gemma { 1.0 } else { 0.0 };
        x.iter().zip(weight).map(|(x, w)| x * factor * (w + offset)).collect()
    }

    fn norm(&self, x: &[Vec<f64>], name: &str) -> Rows {
        x.iter().map(|x| self.rms_norm(x, self.weight(&format!("{name}.weight")))).collect()
    }

    fn project(&self, x: &[Vec<f64>], name: &str) -> Rows {
        let bias = self.weights.get(&format!("{name}.bias"));
        linear(x, self.weight(&format!("{name}.weight")), bias)
    }

    /// Normed where the model does that, and turned by halves.
    fn turned(&self, x: Rows, layer: usize, head: usize, norm: &str) -> Rows {
        let norm = self.weights.get(&format!("model.layers.{layer}.self_attn.{norm}.weight"));
        let turn = |(at, row): (usize, Vec<f64>)| {
            let heads = row.chunks(head).map(|x| match norm {
                Some(norm) => self.rms_norm(x, norm),
                None => x.to_vec(),
            });
            let mut turned = Vec::new();
            for x in heads {
                for column in 0..head {
                    let pair = (column % (head / 2)) as f64;
                    let angle = at as f64 * (self.form.frequency)(layer, pair, head as f64);
                    let rotated = if column < head / 2 {
                        -x[column + head / 2]
                    } else {
                        x[column - head / 2]
                    };
                    turned.push(x[column] * angle.cos() + rotated * angle.sin());
                }
            }
            turned
        };
        x.into_iter().enumerate().map(turn).collect()
    }

    fn attention(&self, x: &[Vec<f64>], layer: usize) -> Rows {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| self.project(x, &name(part)));
        let head = q[0].len() / self.form.heads;
        let q = self.turned(q, layer, head, "q_norm");
        let k = self.turned(k, layer, head, "k_norm");
        let mixed = attended([&q, &k, &v], head, self.form, (self.form.window)(layer));
        self.project(&mixed, &name("o_proj"))
    }

    fn mlp(&self, x: &[Vec<f64>], layer: usize) -> Rows {
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        let [gate, up] = ["gate_proj", "up_proj"].map(|part| self.project(x, &name(part)));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let activation = |x: f64| if self.form.is_gemma { gelu_tanh(x) } else { silu(x) };
        let row = |(gate, up): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
            gate.iter().zip(up).map(|(&gate, up)| activation(gate) * up).collect()
        };
        let hidden: Rows = gate.iter().zip(&up).map(row).collect();
        self.project(&hidden, &name("down_proj"))
    }

    fn layer(&self, x: Rows, layer: usize) -> Rows {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mixed = self.attention(&self.norm(&x, &name("input_layernorm")), layer);
        let after = name("post_attention_layernorm");
        if !self.form.is_gemma {
            let x = added(&x, &mixed);
            return added(&x, &self.mlp(&self.norm(&x, &after), layer));
        }
        let x = added(&x, &self.norm(&mixed, &after));
        let inner = self.mlp(&self.norm(&x, &name("pre_feedforward_layernorm")), layer);
        added(&x, &self.norm(&inner, &name("post_feedforward_layernorm")))
    }

    fn logits(&self, tokens: &[u32]) -> Rows {
        let table = self.weight("model.embed_tokens.weight");
        let width = table.len() / VOCABULARY;
        let scale = if self.form.is_gemma { (width as f64).sqrt() } else { 1.0 };
        let row = |&token: &u32| -> Vec<f64> {
            table[token as usize * width..][..width].iter().map(|x| x * scale).collect()
        };
        let x: Rows = tokens.iter().map(row).collect();
        let x = (0..self.form.layers).fold(x, |x, layer| self.layer(x, layer));
        let x = self.norm(&x, "model.norm");
        let head = if self.form.is_tied { table } else { self.weight("lm_head.weight") };
        let mut logits = linear(&x, head, None);
        if let Some(cap) = self.form.logit_soft_cap {
            logits.iter_mut().flatten().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        logits
    }
}

/// As `modeling_gpt2.py`.
fn gpt2_logits(weights: &Weights, tokens: &[u32]) -> Rows {
    let weight = |name: &str| &weights[&format!("transformer.{name}")];
    let conv = |x: &[Vec<f64>], name: &str| -> Rows {
        let (weight, bias) = (weight(&format!("{name}.weight")), weight(&format!("{name}.bias")));
        let column = |x: &Vec<f64>, output: usize| {
            let inputs = x.iter().enumerate();
            inputs.map(|(i, x)| x * weight[i * bias.len() + output]).sum::<f64>() + bias[output]
        };
        x.iter().map(|x| (0..bias.len()).map(|output| column(x, output)).collect()).collect()
    };
    let norm = |x: &[Vec<f64>], name: &str| -> Rows {
        let (weight, bias) = (weight(&format!("{name}.weight")), weight(&format!("{name}.bias")));
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let factor = 1.0 / (variance + 1e-5).sqrt();
            let normed = x.iter().map(|x| (x - mean) * factor);
            normed.zip(weight).zip(bias).map(|((x, w), b)| x * w + b).collect()
        };
        x.iter().map(row).collect()
    };
    let form = Form {
        heads: 2,
        kv_heads: 2,
        scale: 0.5,
        soft_cap: None,
        ..forms().into_iter().next().expect("one of them")
    };
    let (tokens_table, positions) = (weight("wte.weight"), weight("wpe.weight"));
    let embed = |(at, &token): (usize, &u32)| -> Vec<f64> {
        let rows = [&tokens_table[token as usize * 8..][..8], &positions[at * 8..][..8]];
        rows[0].iter().zip(rows[1]).map(|(a, b)| a + b).collect()
    };
    let mut x: Rows = tokens.iter().enumerate().map(embed).collect();
    for layer in 0..2 {
        let qkv = conv(&norm(&x, &format!("h.{layer}.ln_1")), &format!("h.{layer}.attn.c_attn"));
        let [q, k, v] = [0, 8, 16]
            .map(|first| qkv.iter().map(|row| row[first..first + 8].to_vec()).collect::<Rows>());
        let mixed = attended([&q, &k, &v], 4, &form, None);
        x = added(&x, &conv(&mixed, &format!("h.{layer}.attn.c_proj")));
        let mut inner = conv(&norm(&x, &format!("h.{layer}.ln_2")), &format!("h.{layer}.mlp.c_fc"));
        inner.iter_mut().flatten().for_each(|x| *x = gelu_tanh(*x));
        x = added(&x, &conv(&inner, &format!("h.{layer}.mlp.c_proj")));
    }
    linear(&norm(&x, "ln_f"), tokens_table, None)
}

/// Tensors whose numbers give attention and gates something to do.
fn moderate(config: &str) -> Vec<Tensor> {
    let tensor = |(seed, (name, shape)): (u64, Named)| {
        let drawn = support::values(seed, shape.iter().product());
        let numbers: Vec<_> = drawn.into_iter().map(|x| 0.75 * x).collect();
        Tensor::of(&name, &shape, &numbers)
    };
    (20..).zip(super::models::tensors(config)).map(tensor).collect()
}

fn check(config: &str, expected: impl Fn(&Weights, &[u32]) -> Rows) {
    let Some(gpu) = support::gpu() else { return };
    let tensors = moderate(config);
    let tokens = tokens(3, TIME, VOCABULARY as u32);
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let weights = tensors.iter().map(|tensor| (tensor.name.clone(), wide(tensor.values())));
    let expected = expected(&weights.collect(), &tokens).concat();

    let folder = open(folder(config, &tensors));
    let parameters = loaded(&gpu, &folder);
    let mut graph = Graph::new(Phase::Evaluate);
    let input = graph.tokens("tokens", [1, TIME], VOCABULARY);
    let gpt = Gpt::new(folder.config().gpt.clone()).expect("a model");
    let logits = gpt.logits(&mut graph, input);
    let named = parameters.names().map(|name| (name.to_owned(), wide(values(&parameters, name))));
    let mut data = HostData { values: named.collect(), ..HostData::default() };
    data.values.insert("tokens".to_owned(), tokens.iter().map(|&token| token.into()).collect());
    let evaluation = graph.evaluate(&data);
    let found = evaluation.get(logits);

    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    assert!(largest > 0.1, "logits of no size: {largest}");
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let family = folder.config().family();
        let difference = (found - expected).abs();
        assert!(
            difference <= ROUNDED * largest,
            "{family}: logit {index} is {found}, not {expected}"
        );
    }
}

pub fn loaded_models_compute_what_transformers_does() {
    for form in forms() {
        let logits =
            |weights: &Weights, tokens: &[u32]| Llama { form: &form, weights }.logits(tokens);
        check(form.config, logits);
    }
    check(GPT2, gpt2_logits);
}
