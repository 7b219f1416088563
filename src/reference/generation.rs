//! The generation family as plain f64 loops: a cache, attention to it, and what sampling keeps.

use super::attention::{self, Attention};
use super::random::{threefry4x32, uniform_unit};

/// Last key word of the random streams of sampling.
const DOMAIN_SAMPLE: u32 = 4;

/// Shape of a cache and of the rows that work on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cache {
    /// Heads, scale, cap, window, with `time` rows of each sequence.
    pub attention: Attention,
    /// Positions of the cache.
    pub context: usize,
}

impl Cache {
    /// Elements of the keys, and of the values.
    pub fn len(&self) -> usize {
        let Attention { batch, kv_heads, head_dim, .. } = self.attention;
        batch * kv_heads * self.context * head_dim
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where sequence b, head h has position t.
    fn at(&self, b: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        let Attention { kv_heads, head_dim, .. } = self.attention;
        let start = ((b * kv_heads + h) * self.context + t) * head_dim;
        start..start + head_dim
    }

    /// Rows that are at a position of the cache: (row, position).
    fn rows<'a>(&self, positions: &'a [u32]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let context = self.context;
        let rows = positions.iter().map(|&position| position as usize).enumerate();
        rows.filter(move |&(_, position)| position < context)
    }
}

/// Keys and values (batch, kv_heads, context, head_dim) with those of the rows of `qkv` (batch, time,
/// (heads + 2 kv_heads) head_dim) at their positions (batch, time).
pub fn cache_append(
    cache: &Cache,
    qkv: &[f64],
    positions: &[u32],
    [keys, values]: [&[f64]; 2],
) -> [Vec<f64>; 2] {
    let Attention { time, heads, kv_heads, head_dim, .. } = cache.attention;
    let (mut keys, mut values) = (keys.to_vec(), values.to_vec());
    for (row, position) in cache.rows(positions) {
        let columns = qkv[row * (heads + 2 * kv_heads) * head_dim..].chunks(head_dim);
        let columns: Vec<_> = columns.skip(heads).take(2 * kv_heads).collect();
        for h in 0..kv_heads {
            let at = cache.at(row / time, h, position);
            keys[at.clone()].copy_from_slice(columns[h]);
            values[at].copy_from_slice(columns[kv_heads + h]);
        }
    }
    [keys, values]
}

/// Of every row the attention of its query, as the last of a text that the cache has up to its
/// position: (batch, time, heads head_dim). Zero where there is no such position.
pub fn attention_cached(
    cache: &Cache,
    qkv: &[f64],
    positions: &[u32],
    [keys, values]: [&[f64]; 2],
) -> Vec<f64> {
    let Attention { time, heads, kv_heads, head_dim, window, .. } = cache.attention;
    let mut output = vec![0.0; cache.attention.output_len()];
    let (columns, width) = ((heads + 2 * kv_heads) * head_dim, heads * head_dim);
    for (row, position) in cache.rows(positions) {
        let mut text = Vec::new();
        for t in 0..=position {
            text.extend_from_slice(&qkv[row * columns..][..width]);
            for side in [keys, values] {
                for h in 0..kv_heads {
                    text.extend_from_slice(&side[cache.at(row / time, h, t)]);
                }
            }
        }
        let time = position + 1;
        let size = Attention { batch: 1, time, window: window.min(time), ..cache.attention };
        let (all, _) = attention::attention(&text, &size);
        output[row * width..][..width].copy_from_slice(&all[position * width..]);
    }
    output
}

/// How a token is drawn; see [`Sample`](crate::kernels::Sample).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// How many of the most likely tokens are kept; 0 for all.
    pub top_k: usize,
    /// Share of the sum of weights that the most likely tokens must reach; 1 for all.
    pub top_p: f64,
    /// Share of the largest weight that a weight must reach; 0 for all.
    pub min_p: f64,
    /// Divides positive logits of tokens that the text has, and multiplies others; 1 for none.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u32,
    /// Which draw of the seed.
    pub index: u32,
}

impl Sampling {
    /// The settings that the kernel reads.
    pub fn words(&self) -> [u32; 8] {
        let real = |x: f64| (x as f32).to_bits();
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, seed, index } = *self;
        let top_k = top_k.min(u32::MAX as usize) as u32;
        let penalty = real(repetition_penalty);
        [real(temperature), top_k, real(top_p), real(min_p), penalty, seed, index, 0]
    }

    /// What [`words`](Self::words) says, in f32.
    pub fn from_words(words: &[u32]) -> Self {
        let real = |i: usize| f64::from(f32::from_bits(words[i]));
        Self {
            temperature: real(0),
            top_k: words[1] as usize,
            top_p: real(2),
            min_p: real(3),
            repetition_penalty: real(4),
            seed: words[5],
            index: words[6],
        }
    }
}

/// Logits after the repetition penalty.
pub fn penalized(sampling: &Sampling, logits: &[f64], is_seen: impl Fn(usize) -> bool) -> Vec<f64> {
    let penalty = sampling.repetition_penalty;
    let penalize = |(token, &x): (usize, &f64)| match is_seen(token) {
        true if x > 0.0 => x / penalty,
        true => x * penalty,
        false => x,
    };
    logits.iter().enumerate().map(penalize).collect()
}

/// The kept tokens by id with their weights, of logits after the penalty; not for temperature 0.
pub fn kept(sampling: &Sampling, logits: &[f64]) -> Vec<(usize, f64)> {
    let mut order: Vec<_> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("finite").then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let largest = logits[order[0]];
    let weight = |token: usize| ((logits[token] - largest) / sampling.temperature).exp();
    if sampling.top_p < 1.0 {
        let wanted = sampling.top_p * order.iter().map(|&token| weight(token)).sum::<f64>();
        let mut sum = 0.0;
        let is_needed = |&&token: &&usize| {
            let before = sum;
            sum += weight(token);
            before < wanted
        };
        let count = order.iter().take_while(is_needed).count();
        order.truncate(count.max(1));
    }
    let mut kept: Vec<_> = order.iter().map(|&token| (token, weight(token))).collect();
    kept.retain(|&(_, weight)| weight >= sampling.min_p);
    kept.sort_unstable_by_key(|&(token, _)| token);
    kept
}

/// The uniform number that a draw is made with.
pub fn uniform(sampling: &Sampling) -> f64 {
    let key = [sampling.seed, 0, 0, DOMAIN_SAMPLE];
    uniform_unit(threefry4x32([sampling.index, 0, 0, 0], key)[0])
}

/// A token drawn from logits, and what is told of it; see [`Sample`](crate::kernels::Sample).
pub fn sample(sampling: &Sampling, logits: &[f64], is_seen: impl Fn(usize) -> bool) -> [u32; 4] {
    if let Some(bad) = logits.iter().position(|logit| !logit.is_finite()) {
        return [0, 0, bad as u32, (logits[bad] as f32).to_bits()];
    }
    let logits = penalized(sampling, logits, is_seen);
    if sampling.temperature == 0.0 {
        let first =
            |best: usize, token: usize| if logits[token] > logits[best] { token } else { best };
        return [(0..logits.len()).fold(0, first) as u32, 1, u32::MAX, 0];
    }
    let kept = kept(sampling, &logits);
    let mut left = uniform(sampling) * kept.iter().map(|&(_, weight)| weight).sum::<f64>();
    let is_drawn = |&&(_, weight): &&(usize, f64)| {
        left -= weight;
        left < 0.0
    };
    let drawn = kept.iter().find(is_drawn).unwrap_or(&kept[kept.len() - 1]);
    [drawn.0 as u32, kept.len() as u32, u32::MAX, 0]
}
