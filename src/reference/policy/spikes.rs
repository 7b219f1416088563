//! Spikes by z-score, and reactions to them.

use std::collections::VecDeque;

use super::{Effect, Observed, push};
use crate::step::{Event, Reason};

/// What is done about a spike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reaction {
    /// Skip the step.
    Skip,
    /// Clip to this times the mean norm.
    ClipHarder(f64),
    /// Skip; this factor on the learning rate for so many applied steps.
    CutLearningRate(f64, u32),
    /// Skip; empty the moments of the worst tensor.
    ResetMoments,
    /// Skip; ask for a snapshot.
    RollBack,
}

/// Settings of [`guard_spikes`].
#[derive(Clone, Debug)]
pub struct SpikeSettings {
    /// Samples in a window.
    pub window: usize,
    /// Largest z-score that is no spike.
    pub threshold: f64,
    /// Whether the loss counts.
    pub watch_loss: bool,
    /// Whether the norm counts.
    pub watch_norm: bool,
    /// Whether the worst tensor is found.
    pub watch_tensors: bool,
    /// In order of severity.
    pub reactions: Vec<Reaction>,
    /// Spikes that each reaction serves.
    pub repeats: u32,
    /// Steps without a spike that end an episode.
    pub within: u32,
    /// Spikes in a row after which samples count.
    pub patience: u32,
}

/// What [`guard_spikes`] remembers.
#[derive(Clone, Debug, Default)]
pub struct SpikeMemory {
    /// The last losses.
    pub losses: VecDeque<f64>,
    /// The last norms.
    pub norms: VecDeque<f64>,
    /// Mean norm of each tensor.
    pub means: Vec<f64>,
    /// Loss if finite, norm, norms of tensors, and whether they count in any case.
    pub pending: Option<(Option<f64>, f64, Vec<f64>, bool)>,
    /// Steps since the last spike.
    pub quiet: u32,
    /// Spikes of the episode.
    pub episode: u32,
    /// Spikes in a row.
    pub in_row: u32,
    /// Applied steps for which the rate stays cut, and the factor.
    pub cut: (u32, f64),
}

/// Mean and deviation (n - 1), the latter at least 2^-20 of the power of two at or below the
/// largest sample; `None` until the window is half full, or while it holds zeros only.
pub fn window_statistics(window: &VecDeque<f64>, capacity: usize) -> Option<(f64, f64)> {
    let largest = window.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    if window.len() < (capacity / 2).max(2) || largest == 0.0 {
        return None;
    }
    let count = window.len() as f64;
    let mean = window.iter().sum::<f64>() / count;
    let variance = window.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0);
    let least = 2f64.powi(largest.log2().floor() as i32 - 20);
    Some((mean, variance.sqrt().max(least)))
}

impl SpikeMemory {
    fn take_in(&mut self, settings: &SpikeSettings, applied: bool) {
        if applied {
            self.cut.0 = self.cut.0.saturating_sub(1);
        }
        let Some((loss, norm, tensor_norms, anyway)) = self.pending.take() else { return };
        if !applied && !anyway {
            return;
        }
        if let Some(loss) = loss {
            push(&mut self.losses, settings.window, loss);
        }
        push(&mut self.norms, settings.window, norm);
        self.means.resize(tensor_norms.len(), 0.0);
        for (mean, norm) in self.means.iter_mut().zip(tensor_norms) {
            *mean += (norm - *mean) / self.norms.len() as f64;
        }
    }

    /// The largest ratio of a tensor's norm to its mean, and the first tensor that has it.
    fn worst(&self, tensor_norms: &[f64]) -> usize {
        let mut worst = (0.0, 0);
        for (t, (norm, &mean)) in tensor_norms.iter().zip(&self.means).enumerate() {
            if mean > 0.0 && norm / mean > worst.0 {
                worst = (norm / mean, t);
            }
        }
        worst.1
    }
}

/// z = (x - mean) / deviation over the samples before; spikes are answered by one reaction after
/// the other, and not taken in unless more than `patience` follow each other.
pub fn guard_spikes(
    settings: &SpikeSettings,
    memory: &mut SpikeMemory,
    step: &Observed,
    effect: &mut Effect,
) {
    memory.take_in(settings, step.applied_before);
    memory.quiet = (memory.quiet + 1).min(settings.within);
    if !step.overflows {
        judge_spikes(settings, memory, step, effect);
    }
    if memory.cut.0 > 0 {
        effect.learning_rate_factor *= memory.cut.1;
        effect.events |= Event::LearningRateCut as u32;
    }
}

fn judge_spikes(
    settings: &SpikeSettings,
    memory: &mut SpikeMemory,
    step: &Observed,
    effect: &mut Effect,
) {
    let norms_before = window_statistics(&memory.norms, settings.window);
    let z = |x: f64, before: Option<(f64, f64)>| before.map_or(0.0, |(mean, d)| (x - mean) / d);
    let loss_z = if step.loss.is_finite() {
        z(step.loss, window_statistics(&memory.losses, settings.window))
    } else {
        f32::MAX.into()
    };
    let norm_z = z(step.norm, norms_before);
    let loss_spikes = settings.watch_loss && loss_z > settings.threshold;
    let norm_spikes = settings.watch_norm && norm_z > settings.threshold;
    let tensor_norms = if settings.watch_tensors { step.tensor_norms.clone() } else { Vec::new() };
    let loss = step.loss.is_finite().then_some(step.loss);
    let sample = |anyway| Some((loss, step.norm, tensor_norms.clone(), anyway));
    if !loss_spikes && !norm_spikes {
        memory.pending = sample(false);
        memory.in_row = 0;
        return;
    }
    if memory.quiet >= settings.within {
        memory.episode = 0;
    }
    let level = (memory.episode / settings.repeats).min(settings.reactions.len() as u32 - 1);
    memory.episode += 1;
    memory.quiet = 0;
    memory.in_row += 1;
    memory.pending = if memory.in_row > settings.patience { sample(true) } else { None };
    let worst = memory.worst(&tensor_norms);
    let (mut events, mut value) = (0, 0.0f64);
    if loss_spikes {
        (events, value) = (Event::LossSpike as u32, loss_z);
    }
    if norm_spikes {
        (events, value) = (events | Event::NormSpike as u32, value.max(norm_z));
    }
    effect.note(events, value, worst as u32);
    let reason = if loss_spikes { Reason::LossSpike } else { Reason::NormSpike };
    match (settings.reactions[level as usize], norms_before) {
        (Reaction::ClipHarder(factor), Some((mean, _))) => {
            if effect.lower_max_norm(factor * mean, step.norm) {
                effect.events |= Event::ClippedHarder as u32;
            }
            return;
        }
        (Reaction::CutLearningRate(factor, steps), _) => memory.cut = (steps, factor),
        (Reaction::ResetMoments, _) => {
            effect.resets[worst] = true;
            effect.events |= Event::MomentsReset as u32;
        }
        (Reaction::RollBack, _) => effect.veto = Reason::RolledBack,
        (Reaction::Skip | Reaction::ClipHarder(_), _) => {}
    }
    if effect.veto == Reason::None {
        effect.veto = reason;
    }
}
