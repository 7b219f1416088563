//! The softmax family as plain f64 loops. `lengths` holds the valid columns of each row.

use crate::kernels::EMPTY_LOG_SUM_EXP;

/// Softmax of each row of x (rows, cols) over its valid columns, 0 elsewhere.
pub fn softmax(x: &[f64], cols: usize, lengths: &[usize]) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for ((y, x), &length) in y.chunks_mut(cols).zip(x.chunks(cols)).zip(lengths) {
        let largest = x[..length].iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = x[..length].iter().map(|x| (x - largest).exp()).sum();
        for c in 0..length {
            y[c] = (x[c] - largest).exp() / sum;
        }
    }
    y
}

/// dx = y (dy - sum_c dy y) for each row.
pub fn softmax_backward(y: &[f64], dy: &[f64], cols: usize) -> Vec<f64> {
    let mut dx = Vec::new();
    for (y, dy) in y.chunks(cols).zip(dy.chunks(cols)) {
        let projection: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
        dx.extend(y.iter().zip(dy).map(|(y, dy)| y * (dy - projection)));
    }
    dx
}

/// log(sum_c exp(x)) of each row over its valid columns, [`EMPTY_LOG_SUM_EXP`] where it has none.
pub fn log_sum_exp(x: &[f64], cols: usize, lengths: &[usize]) -> Vec<f64> {
    log_sum_exp_statistics(x, cols, lengths).chunks(2).map(|row| row[0] + row[1]).collect()
}

/// The largest valid element of each row, and the log-sum-exp less it, in turn: (rows, 2);
/// [`EMPTY_LOG_SUM_EXP`] and 0 where a row has none.
pub fn log_sum_exp_statistics(x: &[f64], cols: usize, lengths: &[usize]) -> Vec<f64> {
    let row = |(x, &length): (&[f64], &usize)| {
        if length == 0 {
            return [f64::from(EMPTY_LOG_SUM_EXP), 0.0];
        }
        let largest = x[..length].iter().copied().fold(f64::MIN, f64::max);
        [largest, x[..length].iter().map(|x| (x - largest).exp()).sum::<f64>().ln()]
    };
    x.chunks(cols).zip(lengths).flat_map(row).collect()
}

/// `dx[r, c] = upstream[r] softmax(x)[r, c]`.
pub fn log_sum_exp_backward(
    x: &[f64],
    upstream: &[f64],
    cols: usize,
    lengths: &[usize],
) -> Vec<f64> {
    let y = softmax(x, cols, lengths);
    y.iter().enumerate().map(|(i, y)| upstream[i / cols] * y).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `count` values in [-1, 1) without a pattern.
    pub(crate) fn values(seed: u32, count: usize) -> Vec<f64> {
        let unit = |i: usize| (f64::from(seed) * 12.9898 + i as f64 * 78.233).sin() * 43_758.545;
        (0..count).map(|i| unit(i).rem_euclid(2.0) - 1.0).collect()
    }

    pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// Compares a gradient with central differences of `value` at x. Their error is the third
    /// derivative times h²/6 and the rounding of `value` over h: near 1e-10 each for h = 1e-5.
    #[track_caller]
    pub(crate) fn assert_gradient(x: &[f64], gradient: &[f64], value: impl Fn(&[f64]) -> f64) {
        const H: f64 = 1e-5;
        assert_eq!(x.len(), gradient.len());
        assert!(gradient.iter().any(|g| g.abs() > 1e-3), "a gradient of zeros shows nothing");
        for i in 0..x.len() {
            let mut moved = x.to_vec();
            moved[i] = x[i] + H;
            let above = value(&moved);
            moved[i] = x[i] - H;
            let expected = (above - value(&moved)) / (2.0 * H);
            let error = (gradient[i] - expected).abs();
            assert!(error < 1e-8, "gradient[{i}] is {}, difference {expected}", gradient[i]);
        }
    }

    #[test]
    fn softmax_gradient() {
        let (x, up, lengths) = (values(1, 15), values(2, 15), [5, 0, 3]);
        let y = softmax(&x, 5, &lengths);
        assert!((y[..5].iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert_eq!(y[5..10], [0.0; 5]);
        assert_eq!(y[13..], [0.0; 2]);
        let dx = softmax_backward(&y, &up, 5);
        assert_gradient(&x, &dx, |x| dot(&softmax(x, 5, &lengths), &up));
    }

    #[test]
    fn log_sum_exp_gradient() {
        let (x, up, lengths) = (values(3, 15), values(4, 3), [5, 1, 3]);
        let dx = log_sum_exp_backward(&x, &up, 5, &lengths);
        assert_gradient(&x, &dx, |x| dot(&log_sum_exp(x, 5, &lengths), &up));
        assert_eq!(log_sum_exp(&x, 5, &lengths)[1], x[5]);
        assert_eq!(log_sum_exp(&x, 5, &[5, 0, 3])[1], f64::from(EMPTY_LOG_SUM_EXP));
    }
}
