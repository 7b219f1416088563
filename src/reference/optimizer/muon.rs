//! Muon (Jordan et al., 2024): momentum, made orthogonal by matrix products.

use super::{clipped, update};
use crate::reference::matmul::{Product, matmul, matmul_transposed_a, matmul_transposed_b};
use crate::reference::step::State;

/// Settings of [`muon`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct MuonSettings {
    /// Decay of the momentum.
    pub momentum: f64,
    /// Looks ahead by one momentum step.
    pub nesterov: bool,
    /// Newton-Schulz iterations.
    pub iterations: u32,
    /// Their coefficients.
    pub coefficients: [f64; 3],
    /// The Frobenius norm counts at least this much.
    pub eps: f64,
    /// Factor on the update, for the matrix's shape.
    pub scale: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// The momentum, advanced, and what is to be orthogonalised.
pub fn muon_momentum(
    settings: &MuonSettings,
    state: &State,
    gradient: &[f64],
    momentum: &mut [f64],
) -> Vec<f64> {
    let mu = settings.momentum;
    let elements = gradient.iter().zip(momentum).map(|(&gradient, b)| {
        let g = (1.0 - mu) * clipped(gradient, state);
        *b = mu * *b + g;
        if settings.nesterov { g + mu * *b } else { *b }
    });
    elements.collect()
}

/// Inverse of the Frobenius norm, which counts at least eps.
pub fn muon_norm(x: &[f64], eps: f64) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt().max(eps).recip()
}

/// x times the inverse of its norm.
pub fn muon_normalize(x: &[f64], inverse: f64) -> Vec<f64> {
    x.iter().map(|x| x * inverse).collect()
}

/// a I + b G + c G² of square matrices of this size.
pub fn muon_polynomial(gram: &[f64], square: &[f64], size: usize, [a, b, c]: [f64; 3]) -> Vec<f64> {
    let elements = gram.iter().zip(square).enumerate();
    let on_diagonal = |i: usize| (i % (size * size)).is_multiple_of(size + 1);
    let identity = |i| if on_diagonal(i) { a } else { 0.0 };
    elements.map(|(i, (gram, square))| identity(i) + b * gram + c * square).collect()
}

/// X (rows, cols) towards the nearest matrix with orthonormal rows or columns, whichever are
/// fewer: X = (a I + b G + c G²) X with G = X Xᵀ, or from the right with G = Xᵀ X.
pub fn orthogonalized(settings: &MuonSettings, x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut x = muon_normalize(x, muon_norm(x, settings.eps));
    let size = rows.min(cols);
    let square = Product { rows: size, cols: size, inner: size };
    for _ in 0..settings.iterations {
        let gram = if rows <= cols {
            matmul_transposed_b(&x, &x, Product { inner: cols, ..square })
        } else {
            matmul_transposed_a(&x, &x, Product { inner: rows, ..square })
        };
        let gram_squared = matmul(&gram, &gram, square);
        let factor = muon_polynomial(&gram, &gram_squared, size, settings.coefficients);
        let product = Product { rows, cols, inner: size };
        x = if rows <= cols { matmul(&factor, &x, product) } else { matmul(&x, &factor, product) };
    }
    x
}

/// Muon (Jordan et al., 2024) for one matrix: the whole rule.
pub fn muon(
    settings: &MuonSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum: &mut [f64],
    [rows, cols]: [usize; 2],
) {
    if !state.applied {
        return;
    }
    let x = muon_momentum(settings, state, gradient, momentum);
    let x = orthogonalized(settings, &x, rows, cols);
    update(settings.learning_rate_factor, state, gradient, weight, x, |at, x| {
        -at.learning_rate * (settings.scale * x + settings.weight_decay * at.w)
    });
}
