//! Rules over the two moments of Adam.

use super::{agrees, shrink, update};
use crate::reference::step::State;

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

/// m = β1 m + (1-β1) g and v = β2 v + (1-β2) g².
fn advance_moments([beta1, beta2]: [f64; 2], g: f64, m: &mut f64, v: &mut f64) {
    *m = beta1 * *m + (1.0 - beta1) * g;
    *v = beta2 * *v + (1.0 - beta2) * g * g;
}

/// m_hat / (sqrt(v_hat) + eps).
fn quotient(settings: &AdamSettings, state: &State, m: f64, v: f64) -> f64 {
    m / state.bias_correction1 / ((v / state.bias_correction2).sqrt() + settings.eps)
}

/// m and v advanced, and what they give.
fn adam_update(settings: &AdamSettings, state: &State, g: f64, m: &mut f64, v: &mut f64) -> f64 {
    advance_moments([settings.beta1, settings.beta2], g, m, v);
    quotient(settings, state, *m, *v)
}

/// AdamW (Loshchilov and Hutter, 2019): decay apart from the gradient.
pub fn adamw(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    adamw_scaled(settings, Factor::None, false, state, gradient, weight, moments);
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
    let slower = if let Factor::LearningRate(factor) = factor { factor } else { 1.0 };
    update(settings.learning_rate_factor, state, gradient, weight, moments, |at, (m, v)| {
        let mut update = adam_update(settings, state, at.g, m, v);
        if let Factor::Agreeing(factor) = factor {
            update = if agrees(*m, at.g) { factor * update } else { 0.0 };
        }
        let shrink = shrink(settings.weight_decay, at.w, update, cautious_decay);
        -at.learning_rate * slower * (update + shrink)
    });
}

/// Adam (Kingma and Ba, 2015) with decay in the gradient, as torch.optim.Adam.
pub fn adam(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    update(settings.learning_rate_factor, state, gradient, weight, moments, |at, (m, v)| {
        let decayed = (at.g + settings.weight_decay * at.w).clamp(-1e18, 1e18);
        -at.learning_rate * adam_update(settings, state, decayed, m, v)
    });
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
    let adam = &settings.adam;
    let kept = moments.iter_mut().zip(v_max);
    update(adam.learning_rate_factor, state, gradient, weight, kept, |at, ((m, v), v_max)| {
        let g = (at.g + settings.l2_decay * at.w).clamp(-1e18, 1e18);
        advance_moments([adam.beta1, adam.beta2], g, m, v);
        *v_max = v_max.max(*v);
        let update = quotient(adam, state, *m, *v_max);
        let shrink = shrink(adam.weight_decay, at.w, update, settings.cautious_decay);
        -at.learning_rate * (update + shrink)
    });
}

/// Adam-atan2 (Everett et al., 2024): an angle for a quotient, so that no eps is needed.
pub fn adam_atan2(
    settings: &AdamAtan2Settings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
) {
    update(settings.learning_rate_factor, state, gradient, weight, moments, |at, (m, v)| {
        advance_moments([settings.beta1, settings.beta2], at.g, m, v);
        let root = (*v / state.bias_correction2).sqrt();
        let update = settings.a * (*m / state.bias_correction1).atan2(settings.b * root);
        let shrink = shrink(settings.weight_decay, at.w, update, settings.cautious_decay);
        -at.learning_rate * (update + shrink)
    });
}
