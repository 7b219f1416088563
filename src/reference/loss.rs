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

/// [sum of loss / N, 1 / N] over the N rows whose target is not `ignore_index`; [0, 0] without.
pub fn cross_entropy_mean(loss: &[f64], targets: &[u32], ignore_index: u32) -> [f64; 2] {
    let counted = || loss.iter().zip(targets).filter(|(_, target)| **target != ignore_index);
    let count = counted().count();
    if count == 0 {
        return [0.0, 0.0];
    }
    let sum: f64 = counted().map(|(loss, _)| loss).sum();
    [sum / count as f64, 1.0 / count as f64]
}

/// Gradient of `upstream` times the mean loss:
/// upstream / N (p (1 + 2 z_loss lse) - (1 - e) [c = target] - e / classes).
pub fn cross_entropy_backward(
    logits: &[f64],
    targets: &[u32],
    options: &CrossEntropyOptions,
    upstream: f64,
) -> Vec<f64> {
    let CrossEntropyOptions { classes, ignore_index, label_smoothing, z_loss } = *options;
    let columns = logits.len() / targets.len();
    let (loss, lse) = cross_entropy(logits, targets, options);
    let [_, inverse_count] = cross_entropy_mean(&loss, targets, ignore_index);
    let p = softmax(logits, columns, &vec![classes; targets.len()]);
    let mut dlogits = vec![0.0; logits.len()];
    for (r, &target) in targets.iter().enumerate().filter(|(_, target)| **target != ignore_index) {
        for c in 0..classes {
            let hit = if c == target as usize { 1.0 - label_smoothing } else { 0.0 };
            let distribution = hit + label_smoothing / classes as f64;
            let i = r * columns + c;
            let gradient = p[i] * (1.0 + 2.0 * z_loss * lse[r]) - distribution;
            dlogits[i] = upstream * inverse_count * gradient;
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
                3.7 * cross_entropy_mean(&loss, &targets, IGNORE)[0]
            });
            assert!(dlogits[7..14].iter().all(|&g| g == 0.0), "an ignored row has a gradient");
            assert!(dlogits[5..7].iter().all(|&g| g == 0.0), "a padding column has a gradient");
        }
    }

    #[test]
    fn nothing_but_ignored_rows_is_zero() {
        assert_eq!(cross_entropy_mean(&[0.0; 2], &[IGNORE; 2], IGNORE), [0.0, 0.0]);
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
