//! What an optimizer needs to know of a whole tensor.

use super::{agrees, clipped};
use crate::reference::step::State;

/// Elements in which β1 m + (1-β1) g has the sign of g.
pub fn agreement(beta1: f64, state: &State, gradient: &[f64], m: &[f64]) -> f64 {
    let pairs = gradient.iter().zip(m).map(|(&gradient, m)| (clipped(gradient, state), m));
    pairs.filter(|(g, m)| agrees(beta1 * *m + (1.0 - beta1) * g, *g)).count() as f64
}

/// Sum of g² / max(v_hat, eps²), this gradient being part of v_hat; 0 / 0 is 0.
pub fn squared_ratio(beta2: f64, eps: f64, state: &State, gradient: &[f64], v: &[f64]) -> f64 {
    let ratios = gradient.iter().zip(v).map(|(&gradient, v)| {
        let g = clipped(gradient, state);
        let v_hat = (beta2 * v + (1.0 - beta2) * g * g) / state.bias_correction2;
        if g == 0.0 { 0.0 } else { g * g / v_hat.max(eps * eps) }
    });
    ratios.sum()
}

/// Elements with a second moment whose corrected root is at least eps.
pub fn moment_statistics(eps: f64, bias_correction2: f64, v: &[f64]) -> f64 {
    v.iter().filter(|&&v| v > 0.0 && (v / bias_correction2).sqrt() >= eps).count() as f64
}

/// The number of one tensor, by the rules that [`kernels::optimizer`](crate::kernels::optimizer)
/// numbers.
pub fn tensor_factors(rule: u32, bound: f64, partials: &[f64], elements: usize) -> f64 {
    let mean = partials.iter().sum::<f64>() / elements.max(1) as f64;
    match rule {
        0 => mean,
        1 => mean.sqrt(),
        2 => 1.0 / mean.max(bound),
        3 => 1.0 / (mean.sqrt() / bound).max(1.0),
        _ => 1.0 - mean,
    }
}

/// Sum of squares, where a weight counts at most 1e14.
pub fn weight_squares(weight: &[f64]) -> f64 {
    weight.iter().map(|w| w.clamp(-1e14, 1e14).powi(2)).sum()
}
