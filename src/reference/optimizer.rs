//! The optimizer family as plain f64 loops, over one tensor. Nothing changes in a skipped step.

use super::matmul::{Product, matmul, matmul_transposed_a, matmul_transposed_b};
use super::step::State;

/// Settings of [`adamw`] and [`adam`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// Settings of [`sgd`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct SgdSettings {
    /// Decay of the momentum buffer; 0 does without.
    pub momentum: f64,
    /// 1 - dampening is the gradient's share in the momentum buffer after the first step.
    pub dampening: f64,
    /// Looks ahead by one momentum step.
    pub nesterov: bool,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// Unscaled, clipped by norm, then by value.
fn clipped(gradient: f64, state: &State) -> f64 {
    (gradient * state.gradient_scale).clamp(-state.clip_value, state.clip_value)
}

/// m and v advanced, and m_hat / (sqrt(v_hat) + eps).
fn adam_update(settings: &AdamSettings, state: &State, g: f64, m: &mut f64, v: &mut f64) -> f64 {
    *m = settings.beta1 * *m + (1.0 - settings.beta1) * g;
    *v = settings.beta2 * *v + (1.0 - settings.beta2) * g * g;
    let m_hat = *m / state.bias_correction1;
    let v_hat = *v / state.bias_correction2;
    m_hat / (v_hat.sqrt() + settings.eps)
}

/// AdamW (Loshchilov and Hutter, 2019): decay apart from the gradient.
pub fn adamw(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    if !state.applied {
        return;
    }
    let lr = state.learning_rate * settings.learning_rate_factor;
    for ((&gradient, w), (m, v)) in gradient.iter().zip(weight).zip(moments) {
        let update = adam_update(settings, state, clipped(gradient, state), m, v);
        *w -= lr * (update + settings.weight_decay * *w);
    }
}

/// Adam (Kingma and Ba, 2015) with decay in the gradient, as torch.optim.Adam.
pub fn adam(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    if !state.applied {
        return;
    }
    let lr = state.learning_rate * settings.learning_rate_factor;
    for ((&gradient, w), (m, v)) in gradient.iter().zip(weight).zip(moments) {
        let decayed = clipped(gradient, state) + settings.weight_decay * *w;
        *w -= lr * adam_update(settings, state, decayed.clamp(-1e18, 1e18), m, v);
    }
}

/// Gradient descent with momentum, as torch.optim.SGD: the first applied step fills the buffer.
pub fn sgd(
    settings: &SgdSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum_buffer: &mut [f64],
) {
    if !state.applied {
        return;
    }
    let lr = state.learning_rate * settings.learning_rate_factor;
    for ((&gradient, w), b) in gradient.iter().zip(weight).zip(momentum_buffer) {
        let mut update = clipped(gradient, state) + settings.weight_decay * *w;
        if settings.momentum != 0.0 {
            let first = state.applied_total == 1;
            let kept = settings.momentum * *b + (1.0 - settings.dampening) * update;
            *b = if first { update } else { kept };
            update = if settings.nesterov { update + settings.momentum * *b } else { *b };
        }
        *w -= lr * update;
    }
}

/// Settings of [`amsgrad`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct AmsgradSettings {
    /// Those of AdamW, decay of the weight itself included.
    pub adam: AdamSettings,
    /// Factor of the weight in the gradient.
    pub l2_decay: f64,
    /// Decays only weights that have the sign of the update.
    pub cautious_decay: bool,
}

/// What a tensor's factor is for in [`adamw_scaled`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Factor {
    /// There is none.
    None,
    /// It multiplies the learning rate.
    LearningRate(f64),
    /// It multiplies the elements that agree in sign with the gradient; the others are zero.
    Agreeing(f64),
}

/// Settings of [`adam_atan2`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct AdamAtan2Settings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Factor on the angle.
    pub a: f64,
    /// Factor on the root of the second moment.
    pub b: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// Decays only weights that have the sign of the update.
    pub cautious_decay: bool,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// Settings of [`lion`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct LionSettings {
    /// Share of the momentum in what the sign is taken of.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// Decays only weights that have the sign of the update.
    pub cautious_decay: bool,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// Settings of [`adafactor`], those of the tensor already multiplied in.
#[derive(Clone, Copy, Debug)]
pub struct AdafactorSettings {
    /// p in the share t^-p of step t in what is kept.
    pub decay_power: f64,
    /// Bound on what updates are divided by.
    pub eps1: f64,
    /// Bound on the RMS of the weights.
    pub eps2: f64,
    /// Bound on the RMS of the update.
    pub clip_threshold: f64,
    /// Weight decay of the tensor.
    pub weight_decay: f64,
    /// The tensor's factor on the learning rate.
    pub learning_rate_factor: f64,
}

/// What [`adafactor`] keeps of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Variance {
    /// Of matrices of one size: mean squares of all rows, then of the columns of each matrix.
    Factored {
        /// Rows of each matrix.
        rows: usize,
        /// Columns.
        cols: usize,
        /// (matrices, rows)
        of_rows: Vec<f64>,
        /// (matrices, cols)
        of_cols: Vec<f64>,
    },
    /// Of a vector: the mean square of each element.
    Full(Vec<f64>),
}

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

fn agrees(a: f64, b: f64) -> bool {
    (a > 0.0 && b > 0.0) || (a < 0.0 && b < 0.0)
}

/// What decay takes from a weight that is about to move by `update`.
fn shrink(decay: f64, w: f64, update: f64, cautious: bool) -> f64 {
    if cautious && !agrees(update, w) { 0.0 } else { decay * w }
}

/// AMSGrad (Reddi, Kale and Kumar, 2018): the largest second moment so far divides.
pub fn amsgrad(
    settings: &AmsgradSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
    v_max: &mut [f64],
) {
    if !state.applied {
        return;
    }
    let adam = &settings.adam;
    let lr = state.learning_rate * adam.learning_rate_factor;
    let elements = gradient.iter().zip(weight).zip(moments).zip(v_max);
    for (((&gradient, w), (m, v)), v_max) in elements {
        let g = (clipped(gradient, state) + settings.l2_decay * *w).clamp(-1e18, 1e18);
        adam_update(adam, state, g, m, v);
        *v_max = v_max.max(*v);
        let m_hat = *m / state.bias_correction1;
        let update = m_hat / ((*v_max / state.bias_correction2).sqrt() + adam.eps);
        *w -= lr * (update + shrink(adam.weight_decay, *w, update, settings.cautious_decay));
    }
}

/// AdamW with a factor per tensor: StableAdamW (Wortsman et al., 2023), cautious updates (Liang et
/// al., 2024), cautious decay (2025).
pub fn adamw_scaled(
    settings: &AdamSettings,
    factor: Factor,
    cautious_decay: bool,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    if !state.applied {
        return;
    }
    let mut lr = state.learning_rate * settings.learning_rate_factor;
    if let Factor::LearningRate(factor) = factor {
        lr *= factor;
    }
    for ((&gradient, w), (m, v)) in gradient.iter().zip(weight).zip(moments) {
        let g = clipped(gradient, state);
        let mut update = adam_update(settings, state, g, m, v);
        if let Factor::Agreeing(factor) = factor {
            update = if agrees(*m, g) { factor * update } else { 0.0 };
        }
        *w -= lr * (update + shrink(settings.weight_decay, *w, update, cautious_decay));
    }
}

/// Adam-atan2 (Everett et al., 2024): an angle for a quotient, so that no eps is needed.
pub fn adam_atan2(
    settings: &AdamAtan2Settings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    if !state.applied {
        return;
    }
    let lr = state.learning_rate * settings.learning_rate_factor;
    for ((&gradient, w), (m, v)) in gradient.iter().zip(weight).zip(moments) {
        let g = clipped(gradient, state);
        *m = settings.beta1 * *m + (1.0 - settings.beta1) * g;
        *v = settings.beta2 * *v + (1.0 - settings.beta2) * g * g;
        let root = (*v / state.bias_correction2).sqrt();
        let update = settings.a * (*m / state.bias_correction1).atan2(settings.b * root);
        *w -= lr * (update + shrink(settings.weight_decay, *w, update, settings.cautious_decay));
    }
}

/// Lion (Chen et al., 2023), cautious with a factor on the elements that agree with the gradient.
pub fn lion(
    settings: &LionSettings,
    factor: Option<f64>,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum: &mut [f64],
) {
    if !state.applied {
        return;
    }
    let lr = state.learning_rate * settings.learning_rate_factor;
    for ((&gradient, w), m) in gradient.iter().zip(weight).zip(momentum) {
        let g = clipped(gradient, state);
        let blend = settings.beta1 * *m + (1.0 - settings.beta1) * g;
        *m = settings.beta2 * *m + (1.0 - settings.beta2) * g;
        let sign = if blend == 0.0 { 0.0 } else { blend.signum() };
        let update = match factor {
            None => sign,
            Some(factor) if agrees(blend, g) => factor * sign,
            Some(_) => 0.0,
        };
        *w -= lr * (update + shrink(settings.weight_decay, *w, update, settings.cautious_decay));
    }
}

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

/// The gradient as Adafactor sees it, bounded so that f32 can add up squares.
fn adafactor_gradient(gradient: f64, state: &State) -> f64 {
    clipped(gradient, state).clamp(-1e15, 1e15)
}

/// Sums of g² over the columns of each row and over the rows of each column of a matrix.
pub fn adafactor_scan(state: &State, gradient: &[f64], cols: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = gradient.len() / cols;
    let (mut of_rows, mut of_cols) = (vec![0.0; rows], vec![0.0; cols]);
    for (i, &gradient) in gradient.iter().enumerate() {
        let square = adafactor_gradient(gradient, state).powi(2);
        of_rows[i / cols] += square;
        of_cols[i % cols] += square;
    }
    (of_rows, of_cols)
}

/// Mean squares, advanced by sums over so many elements.
pub fn adafactor_factors(
    decay_power: f64,
    state: &State,
    sums: &[f64],
    elements: usize,
    variance: &mut [f64],
) {
    if !state.applied {
        return;
    }
    let share = f64::from(state.applied_total).powf(-decay_power);
    for (variance, sum) in variance.iter_mut().zip(sums) {
        *variance += share * (sum / elements as f64 - *variance);
    }
}

/// u = g / sqrt(variance), from variances already advanced.
fn adafactor_update(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    variance: &Variance,
) -> Vec<f64> {
    let estimate = |i: usize| match variance {
        Variance::Full(all) => all[i],
        Variance::Factored { rows, cols, of_rows, of_cols } => {
            let (row, matrix) = (i / cols, i / cols / rows);
            let mean = of_rows[matrix * rows..][..*rows].iter().sum::<f64>() / *rows as f64;
            of_rows[row] / mean.max(settings.eps1) * of_cols[matrix * cols + i % cols]
        }
    };
    let elements = gradient.iter().enumerate();
    let update = elements.map(|(i, &gradient)| {
        adafactor_gradient(gradient, state) / estimate(i).max(settings.eps1.powi(2)).sqrt()
    });
    update.collect()
}

/// Sum of squares of Adafactor's update before it is bounded, from variances already advanced.
pub fn adafactor_squares(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    variance: &Variance,
) -> f64 {
    adafactor_update(settings, state, gradient, variance).iter().map(|u| u * u).sum()
}

/// Adafactor (Shazeer and Stern, 2018), as torch.optim.Adafactor: the whole rule.
pub fn adafactor(
    settings: &AdafactorSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    variance: &mut Variance,
) {
    if !state.applied || gradient.is_empty() {
        return;
    }
    match variance {
        Variance::Full(all) => {
            let squares = gradient.iter().map(|&g| adafactor_gradient(g, state).powi(2));
            let squares: Vec<_> = squares.collect();
            adafactor_factors(settings.decay_power, state, &squares, 1, all);
        }
        Variance::Factored { rows, cols, of_rows, of_cols } => {
            for (matrix, gradient) in gradient.chunks(*rows * *cols).enumerate() {
                let sums = adafactor_scan(state, gradient, *cols);
                let of_rows = &mut of_rows[matrix * *rows..][..*rows];
                let of_cols = &mut of_cols[matrix * *cols..][..*cols];
                adafactor_factors(settings.decay_power, state, &sums.0, *cols, of_rows);
                adafactor_factors(settings.decay_power, state, &sums.1, *rows, of_cols);
            }
        }
    }
    let count = weight.len();
    let lr = state.learning_rate * settings.learning_rate_factor;
    let weight_rms = tensor_factors(1, 0.0, &[weight_squares(weight)], count);
    let squares = adafactor_squares(settings, state, gradient, variance);
    let factor = tensor_factors(3, settings.clip_threshold, &[squares], count);
    let rho = lr.min(f64::from(state.applied_total).sqrt().recip());
    let update = adafactor_update(settings, state, gradient, variance);
    for (w, u) in weight.iter_mut().zip(update) {
        let decay = lr * settings.weight_decay * *w;
        *w -= decay + settings.eps2.max(weight_rms) * rho * factor * u;
    }
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
    let lr = state.learning_rate * settings.learning_rate_factor;
    for (w, x) in weight.iter_mut().zip(orthogonalized(settings, &x, rows, cols)) {
        *w -= lr * (settings.scale * x + settings.weight_decay * *w);
    }
}

/// [`adamw`] with a factor on the learning rate.
pub fn adamw_packed(
    settings: &AdamSettings,
    learning_rate_factor: f64,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    let factor = settings.learning_rate_factor * learning_rate_factor;
    let settings = AdamSettings { learning_rate_factor: factor, ..*settings };
    adamw(&settings, state, gradient, weight, moments);
}
