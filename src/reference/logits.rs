//! Norms of heads, QK-clip and summaries of logits as plain f64 loops.

use super::normalization;
use super::reduce::column_partials;

/// Heads in a row of `qkv`, and how [`head_norm`] treats those of queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key heads, and as many value heads.
    pub kv_heads: usize,
    /// Elements in a head.
    pub head_dim: usize,
    /// LayerNorm without bias instead of RMSNorm.
    pub centered: bool,
    /// Added to the mean square.
    pub eps: f64,
    /// Added to the weights.
    pub weight_offset: f64,
}

impl HeadNorm {
    /// Weights as they are applied.
    fn applied(&self, weights: [&[f64]; 2]) -> [Vec<f64>; 2] {
        weights.map(|weight| weight.iter().map(|weight| self.weight_offset + weight).collect())
    }

    /// Every head with the weight that scales it: `None` for a head of values.
    fn heads_of<'a>(
        &self,
        qkv: &'a [f64],
        [query_weight, key_weight]: [&'a [f64]; 2],
    ) -> impl Iterator<Item = (&'a [f64], Option<&'a [f64]>)> + use<'a> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        qkv.chunks(head_dim).enumerate().map(move |(i, x)| {
            let column = i % (heads + 2 * kv_heads);
            let key = (column < heads + kv_heads).then_some(key_weight);
            (x, if column < heads { Some(query_weight) } else { key })
        })
    }
}

/// y = x / sqrt(mean(x²) + eps) * (weight_offset + weight) over each query and key head, after
/// x -= mean(x) where `centered` is set; the values are copied.
pub fn head_norm(x: &[f64], weights: [&[f64]; 2], size: &HeadNorm) -> Vec<f64> {
    let [query_weight, key_weight] = size.applied(weights);
    let heads =
        size.heads_of(x, [&query_weight, &key_weight]).flat_map(|(x, weight)| match weight {
            None => x.to_vec(),
            Some(w) if size.centered => {
                normalization::layer_norm(x, w, &vec![0.0; w.len()], size.eps).y
            }
            Some(w) => normalization::rms_norm(x, w, size.eps).y,
        });
    heads.collect()
}

/// The gradient of x, and of the weights of queries and keys as sums over blocks of rows.
pub fn head_norm_backward(
    x: &[f64],
    weights: [&[f64]; 2],
    dy: &[f64],
    size: &HeadNorm,
    rows_per_block: usize,
) -> (Vec<f64>, [Vec<f64>; 2]) {
    let HeadNorm { heads, kv_heads, head_dim, centered, eps, .. } = *size;
    let [query_weight, key_weight] = size.applied(weights);
    let backward = if centered {
        normalization::layer_norm_backward
    } else {
        normalization::rms_norm_backward
    };
    let pairs = size.heads_of(x, [&query_weight, &key_weight]).zip(dy.chunks(head_dim));
    let dx = pairs.flat_map(|((x, weight), dy)| match weight {
        None => dy.to_vec(),
        Some(weight) => backward(x, weight, dy, eps, None),
    });

    let ones = vec![1.0; head_dim];
    let plain = HeadNorm { weight_offset: 0.0, ..*size };
    let normalized = head_norm(x, [&ones, &ones], &plain);
    let products: Vec<_> = dy.iter().zip(&normalized).map(|(dy, xhat)| dy * xhat).collect();
    let partials = |columns: std::ops::Range<usize>| {
        let rows = products.chunks((heads + 2 * kv_heads) * head_dim);
        let own: Vec<_> = rows
            .flat_map(|row| &row[columns.start * head_dim..columns.end * head_dim])
            .copied()
            .collect();
        column_partials(&own, head_dim, rows_per_block * columns.len())
    };
    (dx.collect(), [partials(0..heads), partials(heads..heads + kv_heads)])
}

/// The largest logit and the mean entropy of each head, of what
/// [`row_logits`](super::attention::row_logits) gave: (heads) each.
pub fn attention_summary(row_logits: &[f64], heads: usize, time: usize) -> [Vec<f64>; 2] {
    let mut largest = vec![f64::NEG_INFINITY; heads];
    let mut entropy = vec![0.0; heads];
    let rows_per_head = (row_logits.len() / 2 / heads) as f64;
    for (row, pair) in row_logits.chunks(2).enumerate() {
        let head = row / time % heads;
        largest[head] = largest[head].max(pair[0]);
        entropy[head] += pair[1] / rows_per_head;
    }
    [largest, entropy]
}

/// The largest logit, and z_loss sum(lse²) M / N, over the rows that count, of (largest logit, lse
/// less it) of each row, for N targets in a step of M microbatches; [the lowest f32, 0] where none
/// counts.
pub fn logit_summary(
    statistics: &[f64],
    targets: &[u32],
    ignore_index: u32,
    z_loss: f64,
    counts: [u32; 2],
) -> [f64; 2] {
    let rows = statistics.chunks(2).zip(targets).filter(|&(_, &target)| target != ignore_index);
    let rows: Vec<_> = rows.map(|(pair, _)| (pair[0], (pair[0] + pair[1]).powi(2))).collect();
    let largest = rows.iter().map(|row| row.0).fold(f64::from(f32::MIN), f64::max);
    let sum: f64 = rows.iter().map(|row| row.1).sum();
    [largest, z_loss * sum * f64::from(counts[1]) / f64::from(counts[0].max(1))]
}

/// QK-clip of a packed tensor (heads + 2 kv_heads, elements of a head), for the largest logit of
/// each query head: gamma = min(1, threshold / max_logit).
pub fn qk_clip(
    weight: &[f64],
    max_logit: &[f64],
    kv_heads: usize,
    threshold: f64,
    alpha: f64,
) -> Vec<f64> {
    let heads = max_logit.len();
    let shared_by = heads / kv_heads;
    let gamma: Vec<_> =
        max_logit.iter().map(|&s| if s > threshold { threshold / s } else { 1.0 }).collect();
    let key_factor = |kv_head: usize| {
        let group = &gamma[kv_head * shared_by..][..shared_by];
        group.iter().copied().fold(1.0, f64::min).powf(1.0 - alpha)
    };
    let query_factors = (0..heads).map(|head| gamma[head] / key_factor(head / shared_by));
    let factors = query_factors
        .chain((0..kv_heads).map(key_factor))
        .chain(std::iter::repeat_n(1.0, kv_heads));
    let per_head = weight.len() / (heads + 2 * kv_heads);
    weight.chunks(per_head).zip(factors).flat_map(|(w, f)| w.iter().map(move |w| w * f)).collect()
}
