//! The attention family as plain f64 loops: whole rows of scores, softmax, weighted sums.

/// Shape and settings of a causal self-attention over a fused `qkv`
/// (batch, time, (heads + 2 kv_heads) * head_dim).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Positions in a sequence.
    pub time: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key heads, and as many value heads.
    pub kv_heads: usize,
    /// Elements in a head.
    pub head_dim: usize,
    /// Factor on q·k.
    pub scale: f64,
    /// Scaled scores s become `soft_cap * tanh(s / soft_cap)`; 0 leaves them.
    pub soft_cap: f64,
    /// Positions that a query sees, itself and those before it: at least 1; `time` for all.
    pub window: usize,
}

/// One query against the positions it sees, from `first` on.
struct Row {
    first: usize,
    /// Before the soft cap.
    raw: Vec<f64>,
    scores: Vec<f64>,
    slopes: Vec<f64>,
    top: f64,
    /// log-sum-exp of the scores less `top`: beside a large one their sum would round it off.
    log_total: f64,
}

impl Row {
    fn probabilities(&self) -> impl Iterator<Item = f64> + '_ {
        self.scores.iter().map(|s| (s - self.top - self.log_total).exp())
    }
}

impl Attention {
    fn capped(&self, score: f64) -> f64 {
        if self.soft_cap > 0.0 { self.soft_cap * (score / self.soft_cap).tanh() } else { score }
    }

    fn capped_derivative(&self, score: f64) -> f64 {
        if self.soft_cap > 0.0 { 1.0 - (score / self.soft_cap).tanh().powi(2) } else { 1.0 }
    }

    /// Elements of `qkv`.
    pub fn qkv_len(&self) -> usize {
        self.batch * self.time * (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.time * self.heads * self.head_dim
    }

    fn at(&self, b: usize, t: usize, column_head: usize) -> std::ops::Range<usize> {
        let row = (b * self.time + t) * (self.heads + 2 * self.kv_heads);
        let start = (row + column_head) * self.head_dim;
        start..start + self.head_dim
    }

    fn query_at(&self, b: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        self.at(b, t, h)
    }

    fn key_at(&self, b: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        self.at(b, t, self.heads + h / (self.heads / self.kv_heads))
    }

    fn value_at(&self, b: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        self.at(b, t, self.heads + self.kv_heads + h / (self.heads / self.kv_heads))
    }

    fn output_at(&self, b: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        let start = ((b * self.time + t) * self.heads + h) * self.head_dim;
        start..start + self.head_dim
    }

    fn row(&self, qkv: &[f64], b: usize, h: usize, t: usize) -> Row {
        let q = &qkv[self.query_at(b, h, t)];
        let first = (t + 1).saturating_sub(self.window);
        let raw: Vec<_> =
            (first..=t).map(|j| self.scale * dot(q, &qkv[self.key_at(b, h, j)])).collect();
        let scores: Vec<_> = raw.iter().map(|&s| self.capped(s)).collect();
        let slopes = raw.iter().map(|&s| self.capped_derivative(s)).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        Row { first, raw, scores, slopes, top, log_total: total.ln() }
    }

    /// Batch, head and position of every query.
    fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let Self { batch, heads, time, .. } = *self;
        (0..batch * heads * time).map(move |i| (i / time / heads, i / time % heads, i % time))
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add_scaled(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

/// The output (batch, time, heads * head_dim) and the log-sum-exps (batch, heads, time).
pub fn attention(qkv: &[f64], size: &Attention) -> (Vec<f64>, Vec<f64>) {
    let mut output = vec![0.0; size.output_len()];
    let mut log_sum_exp = Vec::new();
    for (b, h, t) in size.queries() {
        let row = size.row(qkv, b, h, t);
        for (j, p) in (row.first..).zip(row.probabilities()) {
            add_scaled(&mut output[size.output_at(b, h, t)], p, &qkv[size.value_at(b, h, j)]);
        }
        log_sum_exp.push(row.top + row.log_total);
    }
    (output, log_sum_exp)
}

/// See [`attention`].
pub fn attention_tiled(qkv: &[f64], size: &Attention) -> (Vec<f64>, Vec<f64>) {
    attention(qkv, size)
}

/// The largest score after the soft cap and the log-sum-exp less it, in turn, of each row: (batch,
/// heads, time, 2).
pub fn row_statistics(qkv: &[f64], size: &Attention) -> Vec<f64> {
    let rows = size.queries().map(|(b, h, t)| size.row(qkv, b, h, t));
    rows.flat_map(|row| [row.top, row.log_total]).collect()
}

/// The largest scaled score before the soft cap and the entropy of the softmax, in turn, of each
/// row: (batch, heads, time, 2).
pub fn row_logits(qkv: &[f64], size: &Attention) -> Vec<f64> {
    let rows = size.queries().flat_map(|(b, h, t)| {
        let row = size.row(qkv, b, h, t);
        let largest = row.raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let surprise = row.scores.iter().map(|score| row.top - score + row.log_total);
        let entropy = row.probabilities().zip(surprise).map(|(p, surprise)| p * surprise).sum();
        [largest, entropy]
    });
    rows.collect()
}

/// Sum over each head of `output_gradient * output`: (batch, heads, time).
pub fn attention_delta(output: &[f64], output_gradient: &[f64], size: &Attention) -> Vec<f64> {
    let at = |(b, h, t)| size.output_at(b, h, t);
    size.queries().map(|q| dot(&output[at(q)], &output_gradient[at(q)])).collect()
}

/// Calls `f(b, h, t, j, p, ds)` with the probability and the gradient of each raw score before
/// `scale`: the softmax backward `ds = p (dp - sum p dp)`, times the slope of the soft cap.
fn score_gradients(
    qkv: &[f64],
    output_gradient: &[f64],
    size: &Attention,
    mut f: impl FnMut(usize, usize, usize, usize, f64, f64),
) {
    for (b, h, t) in size.queries() {
        let row = size.row(qkv, b, h, t);
        let p: Vec<_> = row.probabilities().collect();
        let upstream = &output_gradient[size.output_at(b, h, t)];
        let seen = || row.first..=t;
        let dp: Vec<_> = seen().map(|j| dot(upstream, &qkv[size.value_at(b, h, j)])).collect();
        let mean = dot(&p, &dp);
        for (i, j) in seen().enumerate() {
            f(b, h, t, j, p[i], p[i] * (dp[i] - mean) * row.slopes[i] * size.scale);
        }
    }
}

/// The gradient of the queries in a buffer shaped like `qkv`, zero in the other columns.
pub fn attention_backward_query(
    qkv: &[f64],
    output_gradient: &[f64],
    size: &Attention,
) -> Vec<f64> {
    let mut gradient = vec![0.0; size.qkv_len()];
    score_gradients(qkv, output_gradient, size, |b, h, t, j, _, ds| {
        add_scaled(&mut gradient[size.query_at(b, h, t)], ds, &qkv[size.key_at(b, h, j)]);
    });
    gradient
}

/// The gradients of the keys and values in a buffer shaped like `qkv`, zero in the columns of the
/// queries.
pub fn attention_backward_key_value(
    qkv: &[f64],
    output_gradient: &[f64],
    size: &Attention,
) -> Vec<f64> {
    let mut gradient = vec![0.0; size.qkv_len()];
    score_gradients(qkv, output_gradient, size, |b, h, t, j, p, ds| {
        let upstream = &output_gradient[size.output_at(b, h, t)];
        add_scaled(&mut gradient[size.key_at(b, h, j)], ds, &qkv[size.query_at(b, h, t)]);
        add_scaled(&mut gradient[size.value_at(b, h, j)], p, upstream);
    });
    gradient
}

/// See [`attention_backward_query`].
pub fn attention_tiled_backward_query(
    qkv: &[f64],
    output_gradient: &[f64],
    size: &Attention,
) -> Vec<f64> {
    attention_backward_query(qkv, output_gradient, size)
}

/// See [`attention_backward_key_value`].
pub fn attention_tiled_backward_key_value(
    qkv: &[f64],
    output_gradient: &[f64],
    size: &Attention,
) -> Vec<f64> {
    attention_backward_key_value(qkv, output_gradient, size)
}

/// Softmax of each row r of `time` scores over the first `r % time + 1`, after `scale` and
/// `soft_cap` as in [`Attention`]; 0 in the rest.
pub fn causal_softmax(scores: &[f64], time: usize, scale: f64, soft_cap: f64) -> Vec<f64> {
    let mut probabilities = Vec::with_capacity(scores.len());
    for (r, row) in scores.chunks(time).enumerate() {
        let cap = |s: f64| if soft_cap > 0.0 { soft_cap * (s / soft_cap).tanh() } else { s };
        let seen: Vec<_> = row[..=r % time].iter().map(|s| cap(scale * s)).collect();
        let top = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = seen.iter().map(|s| (s - top).exp()).sum();
        probabilities.extend(seen.iter().map(|s| (s - top).exp() / total));
        probabilities.resize((r + 1) * time, 0.0);
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_the_slopes_of_the_output() {
        for (kv_heads, soft_cap, window) in [(4, 0.0, 5), (2, 0.7, 5), (2, 0.0, 3), (4, 0.7, 1)] {
            let size = Attention {
                batch: 2,
                time: 5,
                heads: 4,
                kv_heads,
                head_dim: 3,
                scale: 0.9,
                soft_cap,
                window,
            };
            let wave = |n: usize, step: f64| -> Vec<f64> {
                (0..n).map(|i| (step * (i * i + 3 * i) as f64).sin()).collect()
            };
            let qkv = wave(size.qkv_len(), 0.37);
            let upstream = wave(size.output_len(), 0.23);
            let query = attention_backward_query(&qkv, &upstream, &size);
            let key_value = attention_backward_key_value(&qkv, &upstream, &size);
            for i in 0..qkv.len() {
                let at = |step: f64| {
                    let mut qkv = qkv.clone();
                    qkv[i] += step;
                    dot(&attention(&qkv, &size).0, &upstream)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                let gradient = query[i] + key_value[i];
                assert!((slope - gradient).abs() < 1e-8, "{i}: {gradient}, slope {slope}");
            }
        }
    }

    /// In a window of 1 a position attends to itself alone; one longer than time changes nothing;
    /// what lies outside of a window has no part.
    #[test]
    fn windows_end_where_they_say() {
        let size = |window| Attention {
            batch: 1,
            time: 6,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            scale: 1.0,
            soft_cap: 0.0,
            window,
        };
        let qkv: Vec<f64> = (0..18).map(|i| (0.7 * f64::from(i)).sin()).collect();
        let values: Vec<_> = qkv.chunks(3).map(|row| row[2]).collect();
        let output = |qkv: &[f64], window| attention(qkv, &size(window)).0;
        assert_eq!(output(&qkv, 1), values);
        assert_eq!(output(&qkv, 6), output(&qkv, 100));
        let mut changed = qkv.clone();
        changed[4..6].fill(9.0); // key and value of position 1
        for (t, (a, b)) in output(&qkv, 3).iter().zip(output(&changed, 3)).enumerate() {
            assert_eq!(*a != b, (1..4).contains(&t), "position {t}: {a} and {b}");
        }
    }
}
