//! Clipping by what norms have been, by tensor and by unit.

use std::collections::VecDeque;

use super::{Effect, Observed, push};
use crate::step::Event;

/// Settings of [`clip_by_z_score`].
#[derive(Clone, Copy, Debug)]
pub struct ZScoreSettings {
    /// Largest z-score that is not clipped.
    pub threshold: f64,
    /// Weight of the old mean and variance.
    pub alpha: f64,
    /// Norms before the first clip.
    pub warmup: u32,
    /// Norms above are clipped in any case.
    pub max_norm: f64,
    /// Factor on the adaptive threshold.
    pub clip_factor: f64,
    /// Added to the deviation.
    pub eps: f64,
    /// Clip to the mean instead.
    pub to_mean: bool,
    /// Whether mean and variance follow what spikes are clipped to.
    pub learn_from_spikes: bool,
}

/// What [`clip_by_z_score`] remembers.
#[derive(Clone, Debug, Default)]
pub struct ZScoreMemory {
    /// Norms of the warm-up.
    pub first: Vec<f64>,
    /// Mean and variance after it.
    pub moments: Option<(f64, f64)>,
    /// The norm of the step before.
    pub pending: Option<f64>,
}

/// ZClip (Kumar et al. 2025), with memory of applied steps only.
pub fn clip_by_z_score(
    settings: &ZScoreSettings,
    memory: &mut ZScoreMemory,
    step: &Observed,
    effect: &mut Effect,
) {
    if let Some(norm) = memory.pending.take().filter(|_| step.applied_before) {
        if let Some((mean, variance)) = &mut memory.moments {
            *mean = settings.alpha * *mean + (1.0 - settings.alpha) * norm;
            let square = (norm - *mean) * (norm - *mean);
            *variance = settings.alpha * *variance + (1.0 - settings.alpha) * square;
        } else {
            memory.first.push(norm);
            if memory.first.len() == settings.warmup as usize {
                let count = memory.first.len() as f64;
                let mean = memory.first.iter().sum::<f64>() / count;
                let squares = memory.first.iter().map(|x| (x - mean) * (x - mean));
                memory.moments = Some((mean, squares.sum::<f64>() / count));
            }
        }
    }
    if step.overflows {
        return;
    }
    memory.pending = Some(step.norm);
    if let Some((mean, variance)) = memory.moments {
        let z = (step.norm - mean) / (variance.sqrt() + settings.eps);
        if z > settings.threshold {
            let adaptive = mean + settings.threshold * variance.sqrt() / (z / settings.threshold);
            let bound = if settings.to_mean { mean } else { adaptive * settings.clip_factor };
            memory.pending = settings.learn_from_spikes.then_some(bound);
            if effect.lower_max_norm(bound, step.norm) {
                effect.note(Event::ClippedHarder as u32, z, 0);
            }
        }
    }
    effect.max_norm = effect.max_norm.min(settings.max_norm);
}

/// Coefficients min(1, bound / norm) of each tensor. Returns the largest ratio and its tensor.
fn clip_each(bounds: &[f64], norms: &[f64], effect: &mut Effect) {
    let mut worst = (0.0, 0);
    for (t, (&bound, &norm)) in bounds.iter().zip(norms).enumerate() {
        if norm > bound {
            effect.coefficients[t] *= bound / norm;
            if norm / bound > worst.0 {
                worst = (norm / bound, t as u32);
            }
        }
    }
    if worst.0 > 0.0 {
        effect.note(Event::ClippedHarder as u32, worst.0, worst.1);
    }
}

/// Each tensor clipped by its own norm.
pub fn clip_tensors(bounds: &[f64], step: &Observed, effect: &mut Effect) {
    if !step.overflows {
        clip_each(bounds, &step.tensor_norms, effect);
    }
}

/// Settings of [`clip_by_history`].
#[derive(Clone, Copy, Debug)]
pub struct HistorySettings {
    /// Largest norm beside the average.
    pub lambda_relative: f64,
    /// Largest norm of all gradients in the warm-up.
    pub lambda_absolute: f64,
    /// Weight of the old average.
    pub beta: f64,
    /// Steps of the warm-up.
    pub warmup: u32,
}

/// What [`clip_by_history`] remembers.
#[derive(Clone, Debug, Default)]
pub struct HistoryMemory {
    /// Average norm of each tensor that has one.
    pub gamma: Vec<Option<f64>>,
    /// Steps taken in.
    pub count: u32,
    /// The averages after the step before.
    pub pending: Option<Vec<Option<f64>>>,
}

/// AdaGC (Wang et al. 2025), with memory of applied steps only.
pub fn clip_by_history(
    settings: &HistorySettings,
    memory: &mut HistoryMemory,
    step: &Observed,
    effect: &mut Effect,
) {
    memory.gamma.resize(step.tensor_norms.len(), None);
    if let Some(gamma) = memory.pending.take().filter(|_| step.applied_before) {
        memory.gamma = gamma;
        memory.count += 1;
    }
    if step.overflows {
        return;
    }
    let is_warm = memory.count >= settings.warmup;
    let global = (settings.lambda_absolute / step.norm).min(1.0);
    let mut next = memory.gamma.clone();
    for (gamma, &norm) in next.iter_mut().zip(&step.tensor_norms).filter(|(_, n)| **n > 0.0) {
        *gamma = Some(match *gamma {
            None => norm * if is_warm { 1.0 } else { global },
            Some(gamma) if is_warm => {
                let clipped = norm.min(settings.lambda_relative * gamma);
                settings.beta * gamma + (1.0 - settings.beta) * clipped
            }
            Some(gamma) => gamma.min(norm * global),
        });
    }
    if is_warm {
        let bound = |gamma: &Option<f64>| gamma.map_or(f64::MAX, |g| settings.lambda_relative * g);
        let bounds: Vec<_> = memory.gamma.iter().map(bound).collect();
        clip_each(&bounds, &step.tensor_norms, effect);
    } else {
        effect.max_norm = effect.max_norm.min(settings.lambda_absolute);
    }
    memory.pending = Some(next);
}

/// What [`clip_by_percentile`] remembers.
#[derive(Clone, Debug, Default)]
pub struct PercentileMemory {
    /// The last norms.
    pub norms: VecDeque<f64>,
    /// The norm of the step before.
    pub pending: Option<f64>,
}

/// The percentile of numbers, linear between the nearest ranks, as numpy's.
pub fn percentile(share: f64, numbers: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<_> = numbers.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = share * (sorted.len() - 1) as f64;
    let below = rank as usize;
    let high = sorted[(below + 1).min(sorted.len() - 1)];
    sorted[below] + (rank - below as f64) * (high - sorted[below])
}

/// AutoClip (Seetharaman et al. 2020) over the last `history` norms before this one.
pub fn clip_by_percentile(
    (history, share, warmup): (usize, f64, usize),
    memory: &mut PercentileMemory,
    step: &Observed,
    effect: &mut Effect,
) {
    if let Some(norm) = memory.pending.take().filter(|_| step.applied_before) {
        push(&mut memory.norms, history, norm);
    }
    if step.overflows {
        return;
    }
    memory.pending = Some(step.norm);
    if memory.norms.len() >= warmup {
        let bound = percentile(share, &memory.norms);
        if bound > 0.0 && effect.lower_max_norm(bound, step.norm) {
            effect.note(Event::ClippedHarder as u32, step.norm / bound, 0);
        }
    }
}

/// Adaptive gradient clipping of one unit, as optax.adaptive_grad_clip: g times
/// min(1, clipping max(|w|, eps) / |g|). A gradient that is not finite passes as it is.
pub fn clip_units(clipping: f64, eps: f64, weight: &[f64], gradient: &[f64]) -> Vec<f64> {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let bound = clipping * norm(weight).max(eps);
    let norm = norm(gradient);
    let factor = if norm.is_finite() && norm > bound { bound / norm } else { 1.0 };
    gradient.iter().map(|g| g * factor).collect()
}
