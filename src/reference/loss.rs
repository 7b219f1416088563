//! The loss family as plain f64 loops.

use super::softmax::{log_sum_exp, softmax};

/// What defines a cross-entropy beside its logits and targets.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyOptions {
    /// Leading columns of the logits that are classes.
    pub classes: usize,
    /// Target of rows that do not count.
    pub ignore_index: u32,
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: f64,
    /// Factor of lse² in a row's loss.
    pub z_loss: f64,
}

/// Loss and log-sum-exp of each row of logits (rows, columns), columns >= classes, by PyTorch's
/// definition of label smoothing: (1 - e) nll + e / classes sum_c(-log p), plus z_loss lse².
/// Ignored rows have loss 0.
pub fn cross_entropy(
    logits: &[f64],
    targets: &[u32],
    options: &CrossEntropyOptions,
) -> (Vec<f64>, Vec<f64>) {
    let CrossEntropyOptions { classes, ignore_index, label_smoothing, z_loss } = *options;
    let columns = logits.len() / targets.len();
    let lse = log_sum_exp(logits, columns, &vec![classes; targets.len()]);
    let mut loss = Vec::new();
    for (r, &target) in targets.iter().enumerate() {
        if target == ignore_index {
            loss.push(0.0);
            continue;
        }
        let row = &logits[r * columns..r * columns + classes];
        let nll = lse[r] - row[target as usize];
        let spread = row.iter().map(|x| lse[r] - x).sum::<f64>() / classes as f64;
        let smoothed = (1.0 - label_smoothing) * nll + label_smoothing * spread;
        loss.push(smoothed + z_loss * lse[r] * lse[r]);
    }
    (loss, lse)
}

/// How many targets are not `ignore_index`.
pub fn count_targets(targets: &[u32], ignore_index: u32) -> u32 {
    targets.iter().filter(|&&target| target != ignore_index).count() as u32
}

/// [sum of loss M / N, M / N] for N targets in a step of M microbatches; [0, 0] without targets.
pub fn cross_entropy_mean(loss: &[f64], [targets, microbatches]: [u32; 2]) -> [f64; 2] {
    if targets == 0 {
        return [0.0, 0.0];
    }
    let factor = f64::from(microbatches) / f64::from(targets);
    [loss.iter().sum::<f64>() * factor, factor]
}

/// Gradient of `upstream` times the sum of the losses of all rows:
/// upstream (p (1 + 2 z_loss lse) - (1 - e) [c = target] - e / classes).
pub fn cross_entropy_backward(
    logits: &[f64],
    targets: &[u32],
    options: &CrossEntropyOptions,
    upstream: f64,
) -> Vec<f64> {
    let CrossEntropyOptions { classes, ignore_index, label_smoothing, z_loss } = *options;
    let columns = logits.len() / targets.len();
    let (_, lse) = cross_entropy(logits, targets, options);
    let p = softmax(logits, columns, &vec![classes; targets.len()]);
    let mut dlogits = vec![0.0; logits.len()];
    for (r, &target) in targets.iter().enumerate().filter(|(_, target)| **target != ignore_index) {
        for c in 0..classes {
            let hit = if c == target as usize { 1.0 - label_smoothing } else { 0.0 };
            let distribution = hit + label_smoothing / classes as f64;
            let i = r * columns + c;
            let gradient = p[i] * (1.0 + 2.0 * z_loss * lse[r]) - distribution;
            dlogits[i] = upstream * gradient;
        }
    }
    dlogits
}

/// 1 for each row whose first largest logit among the classes is at the target, else 0.
pub fn count_correct(
    logits: &[f64],
    targets: &[u32],
    classes: usize,
    ignore_index: u32,
) -> Vec<f64> {
    let columns = logits.len() / targets.len();
    let row = |(row, &target): (&[f64], &u32)| {
        let mut best = 0;
        for c in 1..classes {
            if row[c] > row[best] {
                best = c;
            }
        }
        if target != ignore_index && best == target as usize { 1.0 } else { 0.0 }
    };
    logits.chunks(columns).zip(targets).map(row).collect()
}

/// The loss of a step after one more microbatch: what it was before, if there were any, and the
/// microbatch's share; the first that is not finite stays.
pub fn loss_mean(factor: f64, loss: f64, before: Option<f64>) -> f64 {
    match before {
        Some(before) if !before.is_finite() => before,
        _ => before.unwrap_or(0.0) + factor * loss,
    }
}

/// Mean over the columns of (prediction - expected)², for each row.
pub fn mean_squared_error(prediction: &[f64], expected: &[f64], cols: usize) -> Vec<f64> {
    let squares: Vec<_> = prediction.iter().zip(expected).map(|(p, e)| (p - e).powi(2)).collect();
    squares.chunks(cols).map(|row| row.iter().sum::<f64>() / cols as f64).collect()
}

/// Gradient of `upstream` times the mean over all elements.
pub fn mean_squared_error_backward(
    prediction: &[f64],
    expected: &[f64],
    upstream: f64,
) -> Vec<f64> {
    let scale = upstream * 2.0 / prediction.len() as f64;
    prediction.iter().zip(expected).map(|(p, e)| scale * (p - e)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::reduce::row_mean;
    use crate::reference::softmax::tests::{assert_gradient, values};

    const IGNORE: u32 = u32::MAX;

    #[test]
    fn cross_entropy_gradient() {
        let (logits, targets) = (values(1, 28), [4, IGNORE, 0, 2]);
        for (label_smoothing, z_loss) in [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.03)] {
            let options =
                CrossEntropyOptions { classes: 5, ignore_index: IGNORE, label_smoothing, z_loss };
            let dlogits = cross_entropy_backward(&logits, &targets, &options, 3.7);
            assert_gradient(&logits, &dlogits, |logits| {
                let (loss, _) = cross_entropy(logits, &targets, &options);
                3.7 * loss.iter().sum::<f64>()
            });
            assert!(dlogits[7..14].iter().all(|&g| g == 0.0), "an ignored row has a gradient");
            assert!(dlogits[5..7].iter().all(|&g| g == 0.0), "a padding column has a gradient");
        }
    }

    #[test]
    fn a_mean_is_that_of_the_step() {
        assert_eq!(count_targets(&[3, IGNORE, 0], IGNORE), 2);
        // Two microbatches with 9 targets: their mean is the sum over all of them / 9.
        let [mean, factor] = cross_entropy_mean(&[3.0, 0.0, 6.0], [9, 2]);
        assert_eq!([mean / 2.0, factor], [1.0, 2.0 / 9.0]);
        assert_eq!(cross_entropy_mean(&[0.0; 2], [0, 1]), [0.0, 0.0], "nothing but ignored rows");
    }

    #[test]
    fn cross_entropy_of_known_values() {
        let options = CrossEntropyOptions {
            classes: 4,
            ignore_index: IGNORE,
            label_smoothing: 0.1,
            z_loss: 0.0,
        };
        let (loss, lse) = cross_entropy(&[0.0; 4], &[2], &options);
        assert!((loss[0] - 4f64.ln()).abs() < 1e-15 && (lse[0] - 4f64.ln()).abs() < 1e-15);
        assert_eq!(count_correct(&[1.0, 3.0, 3.0, 9.0], &[1], 3, IGNORE), [1.0]);
    }

    #[test]
    fn mean_squared_error_gradient() {
        let (prediction, expected) = (values(2, 15), values(3, 15));
        let gradient = mean_squared_error_backward(&prediction, &expected, 3.7);
        assert_gradient(&prediction, &gradient, |p| {
            3.7 * row_mean(&mean_squared_error(p, &expected, 5))
        });
    }
}
