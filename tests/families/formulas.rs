//! Decoder-only transformers from their formulas, in f64, position by position.

use std::collections::HashMap;
use std::f64::consts::{PI, TAU};

use evenkeel::nn::{FeedForwardKind, GptConfig, LayerKind, Positions, RotaryScaling};
use evenkeel::reference::elementwise::normal_cdf;

/// A model by its settings and its tensors by name.
pub struct Formulas<'a> {
    pub config: &'a GptConfig,
    pub tensors: &'a HashMap<String, Vec<f64>>,
}

pub fn dot(x: &[f64], y: &[f64]) -> f64 {
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

    /// Of one sequence.
    pub fn logits(&self, ids: &[f64]) -> Vec<f64> {
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
