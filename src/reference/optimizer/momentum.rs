//! Rules that keep a momentum, or nothing.

use super::{agrees, shrink, update};
use crate::reference::step::State;

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

/// Gradient descent with momentum, as torch.optim.SGD: the first applied step fills the buffer.
pub fn sgd(
    settings: &SgdSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum_buffer: &mut [f64],
) {
    update(settings.learning_rate_factor, state, gradient, weight, momentum_buffer, |at, b| {
        let mut update = at.g + settings.weight_decay * at.w;
        if settings.momentum != 0.0 {
            let first = state.applied_total == 1;
            let kept = settings.momentum * *b + (1.0 - settings.dampening) * update;
            *b = if first { update } else { kept };
            update = if settings.nesterov { update + settings.momentum * *b } else { *b };
        }
        -at.learning_rate * update
    });
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
    update(settings.learning_rate_factor, state, gradient, weight, momentum, |at, m| {
        let blend = settings.beta1 * *m + (1.0 - settings.beta1) * at.g;
        *m = settings.beta2 * *m + (1.0 - settings.beta2) * at.g;
        let sign = if blend == 0.0 { 0.0 } else { blend.signum() };
        let update = match factor {
            None => sign,
            Some(factor) if agrees(blend, at.g) => factor * sign,
            Some(_) => 0.0,
        };
        let shrink = shrink(settings.weight_decay, at.w, update, settings.cautious_decay);
        -at.learning_rate * (update + shrink)
    });
}
