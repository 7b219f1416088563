//! The normalization family as plain f64 loops. Rows have as many elements as `weight`.

use super::reduce::{column_partials, column_sum};

/// Output and statistics of a layer norm.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// (rows, cols)
    pub y: Vec<f64>,
    /// (rows)
    pub mean: Vec<f64>,
    /// (rows): 1 / sqrt(variance + eps).
    pub rstd: Vec<f64>,
}

/// Output and statistics of an RMS norm.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// (rows, cols)
    pub y: Vec<f64>,
    /// (rows): 1 / sqrt(mean(x²) + eps).
    pub rstd: Vec<f64>,
}

/// Gradients of a batch norm.
#[derive(Clone, Debug)]
pub struct BatchNormGradients {
    /// (rows, features)
    pub dx: Vec<f64>,
    /// (features)
    pub dweight: Vec<f64>,
    /// (features)
    pub dbias: Vec<f64>,
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// y = (x - mean) rstd weight + bias over each row, with the biased variance.
pub fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> LayerNorm {
    let mut out = LayerNorm { y: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
    for row in x.chunks(weight.len()) {
        let centre = mean(row.iter().copied());
        let variance = mean(row.iter().map(|x| (x - centre).powi(2)));
        let rstd = 1.0 / (variance + eps).sqrt();
        for (c, x) in row.iter().enumerate() {
            out.y.push((x - centre) * rstd * weight[c] + bias[c]);
        }
        out.mean.push(centre);
        out.rstd.push(rstd);
    }
    out
}

/// The sum x + residual, and its layer norm.
pub fn residual_layer_norm(
    x: &[f64],
    residual: &[f64],
    weight: &[f64],
    bias: &[f64],
    eps: f64,
) -> (Vec<f64>, LayerNorm) {
    let sum = add(x, residual);
    let norm = layer_norm(&sum, weight, bias, eps);
    (sum, norm)
}

/// dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)), plus `residual_gradient` if there is one.
pub fn layer_norm_backward(
    x: &[f64],
    weight: &[f64],
    dy: &[f64],
    eps: f64,
    residual_gradient: Option<&[f64]>,
) -> Vec<f64> {
    let cols = weight.len();
    let (ones, zeros) = (vec![1.0; cols], vec![0.0; cols]);
    let LayerNorm { y: xhat, rstd, .. } = layer_norm(x, &ones, &zeros, eps);
    let mut dx = Vec::new();
    for ((xhat, dy), rstd) in xhat.chunks(cols).zip(dy.chunks(cols)).zip(rstd) {
        let mean_gradient = mean((0..cols).map(|c| weight[c] * dy[c]));
        let projection = mean((0..cols).map(|c| weight[c] * dy[c] * xhat[c]));
        for c in 0..cols {
            dx.push(rstd * (weight[c] * dy[c] - mean_gradient - xhat[c] * projection));
        }
    }
    residual_gradient.map_or_else(|| dx.clone(), |further| add(&dx, further))
}

/// Sums of dy xhat and of dy over blocks of rows, each (blocks, cols).
pub fn layer_norm_parameter_partials(
    x: &[f64],
    dy: &[f64],
    cols: usize,
    eps: f64,
    rows_per_block: usize,
) -> (Vec<f64>, Vec<f64>) {
    let xhat = layer_norm(x, &vec![1.0; cols], &vec![0.0; cols], eps).y;
    let products: Vec<_> = dy.iter().zip(&xhat).map(|(dy, xhat)| dy * xhat).collect();
    (column_partials(&products, cols, rows_per_block), column_partials(dy, cols, rows_per_block))
}

/// y = x rstd weight over each row.
pub fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> RmsNorm {
    let mut out = RmsNorm { y: Vec::new(), rstd: Vec::new() };
    for row in x.chunks(weight.len()) {
        let rstd = 1.0 / (mean(row.iter().map(|x| x * x)) + eps).sqrt();
        out.y.extend(row.iter().zip(weight).map(|(x, w)| x * rstd * w));
        out.rstd.push(rstd);
    }
    out
}

/// The sum x + residual, and its RMS norm.
pub fn residual_rms_norm(
    x: &[f64],
    residual: &[f64],
    weight: &[f64],
    eps: f64,
) -> (Vec<f64>, RmsNorm) {
    let sum = add(x, residual);
    let norm = rms_norm(&sum, weight, eps);
    (sum, norm)
}

/// dx = rstd (w dy - xhat mean(w dy xhat)), plus `residual_gradient` if there is one.
pub fn rms_norm_backward(
    x: &[f64],
    weight: &[f64],
    dy: &[f64],
    eps: f64,
    residual_gradient: Option<&[f64]>,
) -> Vec<f64> {
    let cols = weight.len();
    let RmsNorm { y: xhat, rstd } = rms_norm(x, &vec![1.0; cols], eps);
    let mut dx = Vec::new();
    for ((xhat, dy), rstd) in xhat.chunks(cols).zip(dy.chunks(cols)).zip(rstd) {
        let projection = mean((0..cols).map(|c| weight[c] * dy[c] * xhat[c]));
        for c in 0..cols {
            dx.push(rstd * (weight[c] * dy[c] - xhat[c] * projection));
        }
    }
    residual_gradient.map_or_else(|| dx.clone(), |further| add(&dx, further))
}

/// Sums of dy xhat over blocks of rows: (blocks, cols).
pub fn rms_norm_parameter_partials(
    x: &[f64],
    dy: &[f64],
    cols: usize,
    eps: f64,
    rows_per_block: usize,
) -> Vec<f64> {
    let xhat = rms_norm(x, &vec![1.0; cols], eps).y;
    let products: Vec<_> = dy.iter().zip(&xhat).map(|(dy, xhat)| dy * xhat).collect();
    column_partials(&products, cols, rows_per_block)
}

/// Euclidean norms of the rows of w (.., cols).
pub fn row_norms(w: &[f64], cols: usize) -> Vec<f64> {
    w.chunks(cols).map(|row| row.iter().map(|w| w * w).sum::<f64>().sqrt()).collect()
}

/// Means, then biased variances, of the columns of x (rows, features).
pub fn batch_norm_statistics(x: &[f64], features: usize) -> Vec<f64> {
    let rows = (x.len() / features) as f64;
    let means: Vec<_> = column_sum(x, features).iter().map(|sum| sum / rows).collect();
    let squares: Vec<_> =
        x.iter().enumerate().map(|(i, x)| (x - means[i % features]).powi(2)).collect();
    let variances = column_sum(&squares, features).into_iter().map(|sum| sum / rows);
    means.iter().copied().chain(variances).collect()
}

/// Statistics of x (rows, features) as the kernels keep them, (4, features): shift, which is the
/// first row, mean less shift, variance, and scale, which is 1 where nothing overflows.
pub fn batch_norm_moments(x: &[f64], statistics: &[f64]) -> Vec<f64> {
    let (means, variances) = statistics.split_at(statistics.len() / 2);
    let shift = &x[..means.len()];
    let rest = means.iter().zip(shift).map(|(mean, shift)| mean - shift);
    let scale = std::iter::repeat_n(1.0, means.len());
    shift.iter().copied().chain(rest).chain(variances.iter().copied()).chain(scale).collect()
}

/// Means, then biased variances, of statistics as the kernels keep them.
pub fn batch_norm_mean_variance(moments: &[f64]) -> Vec<f64> {
    let features = moments.len() / 4;
    let row = |r: usize| &moments[r * features..][..features];
    let means = (0..features).map(|c| (row(0)[c] + row(1)[c]) / row(3)[c]);
    let variances = (0..features).map(|c| row(2)[c] / row(3)[c].powi(2));
    means.chain(variances).collect()
}

/// y = (x - mean) / sqrt(variance + eps) weight + bias per column, for given statistics.
pub fn batch_norm(
    x: &[f64],
    statistics: &[f64],
    weight: &[f64],
    bias: &[f64],
    eps: f64,
) -> Vec<f64> {
    let features = weight.len();
    let (means, variances) = statistics.split_at(features);
    let mut y = Vec::new();
    for (i, x) in x.iter().enumerate() {
        let c = i % features;
        y.push((x - means[c]) / (variances[c] + eps).sqrt() * weight[c] + bias[c]);
    }
    y
}

/// Gradients through the batch's own statistics.
pub fn batch_norm_backward(x: &[f64], weight: &[f64], dy: &[f64], eps: f64) -> BatchNormGradients {
    let features = weight.len();
    let rows = (x.len() / features) as f64;
    let statistics = batch_norm_statistics(x, features);
    let xhat = batch_norm(x, &statistics, &vec![1.0; features], &vec![0.0; features], eps);
    let products: Vec<_> = dy.iter().zip(&xhat).map(|(dy, xhat)| dy * xhat).collect();
    let (dweight, dbias) = (column_sum(&products, features), column_sum(dy, features));
    let mut dx = Vec::new();
    for i in 0..x.len() {
        let c = i % features;
        let rstd = 1.0 / (statistics[features + c] + eps).sqrt();
        let centred = dy[i] - dbias[c] / rows - xhat[i] * dweight[c] / rows;
        dx.push(weight[c] * rstd * centred);
    }
    BatchNormGradients { dx, dweight, dbias }
}

/// (1 - momentum) base + momentum batch; `batch` from [`batch_norm_statistics`] over `rows` rows,
/// its variances made unbiased. A single row keeps its biased variance, 0.
pub fn batch_norm_running(base: &[f64], batch: &[f64], rows: usize, momentum: f64) -> Vec<f64> {
    let features = base.len() / 2;
    let unbiased = rows as f64 / (rows.max(2) - 1) as f64;
    let mut staged = Vec::new();
    for i in 0..base.len() {
        let latest = if i < features { batch[i] } else { batch[i] * unbiased };
        staged.push((1.0 - momentum) * base[i] + momentum * latest);
    }
    staged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::softmax::tests::{assert_gradient, dot, values};

    const EPS: f64 = 1e-5;

    #[test]
    fn layer_norm_gradients() {
        let (x, dy, further) = (values(1, 21), values(2, 21), values(3, 21));
        let (weight, bias) = (values(4, 7), values(5, 7));
        let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&layer_norm(x, w, b, EPS).y, &dy);
        let dx = layer_norm_backward(&x, &weight, &dy, EPS, None);
        assert_gradient(&x, &dx, |x| loss(x, &weight, &bias));
        let dx = layer_norm_backward(&x, &weight, &dy, EPS, Some(&further));
        assert_gradient(&x, &dx, |x| loss(x, &weight, &bias) + dot(x, &further));
        let (dweight, dbias) = layer_norm_parameter_partials(&x, &dy, 7, EPS, 3);
        assert_gradient(&weight, &dweight, |w| loss(&x, w, &bias));
        assert_gradient(&bias, &dbias, |b| loss(&x, &weight, b));
    }

    #[test]
    fn rms_norm_gradients() {
        let (x, dy, further) = (values(6, 21), values(7, 21), values(8, 21));
        let weight = values(9, 7);
        let loss = |x: &[f64], w: &[f64]| dot(&rms_norm(x, w, EPS).y, &dy);
        let dx = rms_norm_backward(&x, &weight, &dy, EPS, None);
        assert_gradient(&x, &dx, |x| loss(x, &weight));
        let dx = rms_norm_backward(&x, &weight, &dy, EPS, Some(&further));
        assert_gradient(&x, &dx, |x| loss(x, &weight) + dot(x, &further));
        let dweight = rms_norm_parameter_partials(&x, &dy, 7, EPS, 3);
        assert_gradient(&weight, &dweight, |w| loss(&x, w));
    }

    #[test]
    fn batch_norm_gradients() {
        let (x, dy, weight, bias) = (values(10, 21), values(11, 21), values(12, 3), values(13, 3));
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            dot(&batch_norm(x, &batch_norm_statistics(x, 3), w, b, EPS), &dy)
        };
        let gradients = batch_norm_backward(&x, &weight, &dy, EPS);
        assert_gradient(&x, &gradients.dx, |x| loss(x, &weight, &bias));
        assert_gradient(&weight, &gradients.dweight, |w| loss(&x, w, &bias));
        assert_gradient(&bias, &gradients.dbias, |b| loss(&x, &weight, b));
    }

    #[test]
    fn running_statistics_are_unbiased() {
        let batch = batch_norm_statistics(&[1.0, 2.0, 3.0, 4.0], 1);
        assert_eq!(batch, [2.5, 1.25]);
        let staged = batch_norm_running(&[0.0, 1.0], &batch, 4, 0.1);
        let expected = [0.25, 0.9 + 0.1 * 5.0 / 3.0];
        assert!(staged.iter().zip(expected).all(|(s, e)| (s - e).abs() < 1e-15), "{staged:?}");
    }
}
