//! The optimizer family as plain f64 loops, over one tensor. Nothing changes in a skipped step.

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
