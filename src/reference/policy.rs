//! Policies as plain loops: what each remembers, and what it makes of a step.

use std::collections::VecDeque;

use crate::step::{Event, Reason};

/// A step as policies see it between norm and verdict.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Mean loss.
    pub loss: f64,
    /// Global norm of the unscaled gradients.
    pub norm: f64,
    /// Norms of the unscaled gradients of each tensor.
    pub tensor_norms: Vec<f64>,
    /// Whether a gradient is NaN or Inf.
    pub overflows: bool,
    /// Whether the step before was applied.
    pub applied_before: bool,
}

/// What policies set between norm and verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Why the step is to be skipped.
    pub veto: Reason,
    /// Bound on the norm.
    pub max_norm: f64,
    /// Factor on the learning rate.
    pub learning_rate_factor: f64,
    /// Clip coefficient of each tensor.
    pub coefficients: Vec<f64>,
    /// Tensors whose moments are to be emptied.
    pub resets: Vec<bool>,
    /// Bits of [`Event`].
    pub events: u32,
    /// What made the first policy act.
    pub event_value: f64,
    /// The tensor it was about.
    pub event_tensor: u32,
}

impl Effect {
    /// Nothing yet, for this many tensors.
    pub fn new(max_norm: f64, tensor_count: usize) -> Self {
        Self {
            veto: Reason::None,
            max_norm,
            learning_rate_factor: 1.0,
            coefficients: vec![1.0; tensor_count],
            resets: vec![false; tensor_count],
            events: 0,
            event_value: 0.0,
            event_tensor: 0,
        }
    }

    fn note(&mut self, events: u32, value: f64, tensor: u32) {
        if self.event_value == 0.0 {
            (self.event_value, self.event_tensor) = (value, tensor);
        }
        self.events |= events;
    }

    /// Lowers the bound on the norm; whether that clips the step harder.
    fn lower_max_norm(&mut self, bound: f64, norm: f64) -> bool {
        let lowers = bound < self.max_norm && norm > bound;
        self.max_norm = self.max_norm.min(bound);
        lowers
    }
}

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

fn push<T>(window: &mut VecDeque<T>, capacity: usize, value: T) {
    if window.len() == capacity {
        window.pop_front();
    }
    window.push_back(value);
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

/// Settings of [`decide_snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// Snapshots in the ring.
    pub capacity: usize,
    /// Applied steps between them.
    pub every: u32,
    /// Bad steps in a row that bring a rollback; 0: none.
    pub after: u32,
    /// Rollbacks before training gives up.
    pub max_rollbacks: u32,
    /// Applied steps with a cut after a rollback.
    pub cut_steps: u32,
}

/// What [`decide_snapshot`] remembers: a stack of snapshots that loses its bottom when full.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMemory {
    /// Steps applied when each was taken.
    pub snapshots: VecDeque<u32>,
    /// Applied steps since the last one.
    pub since: u32,
    /// Rollbacks so far.
    pub rollbacks: u32,
    /// Bad steps since the last applied one or rollback.
    pub bad: u32,
    /// Applied steps for which the learning rate stays cut.
    pub cut_left: u32,
}

/// What becomes of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Nothing.
    Nothing,
    /// A snapshot of this step.
    Take,
    /// Back to the snapshot with so many applied steps.
    Restore(u32),
    /// Training gives up.
    GiveUp,
}

/// What a step turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Whether it was applied.
    pub applied: bool,
    /// Steps applied so far.
    pub applied_total: u32,
    /// Bits of [`Event`].
    pub events: u32,
    /// Whether a policy asks for a rollback.
    pub asked: bool,
}

/// What becomes of the ring of snapshots once a step is committed or skipped.
pub fn decide_snapshot(
    settings: &SnapshotSettings,
    memory: &mut SnapshotMemory,
    step: &Outcome,
) -> SnapshotAction {
    let has = |events: &[Event]| events.iter().any(|&event| step.events & event as u32 != 0);
    let is_first = memory.snapshots.is_empty();
    let takes = if step.applied {
        memory.bad = 0;
        memory.cut_left = memory.cut_left.saturating_sub(1);
        memory.since += 1;
        let is_quiet = !has(&[Event::LossSpike, Event::NormSpike]);
        is_first || (memory.since >= settings.every && is_quiet)
    } else {
        memory.bad += u32::from(!has(&[Event::LossScaleDown]));
        is_first
    };
    if takes {
        push(&mut memory.snapshots, settings.capacity, step.applied_total);
        memory.since = 0;
        return SnapshotAction::Take;
    }
    let is_bad = step.asked || (settings.after > 0 && memory.bad >= settings.after);
    if step.applied || !is_bad {
        return SnapshotAction::Nothing;
    }
    if memory.rollbacks >= settings.max_rollbacks {
        return SnapshotAction::GiveUp;
    }
    memory.rollbacks += 1;
    memory.bad = 0;
    memory.since = 0;
    memory.cut_left = settings.cut_steps;
    let newest = *memory.snapshots.back().expect("not empty");
    if memory.snapshots.len() > 1 {
        memory.snapshots.pop_back();
    }
    SnapshotAction::Restore(newest)
}

/// live and snapshots after a take or restore of one slot.
pub fn copy_snapshot(live: &mut [u32], snapshots: &mut [Vec<u32>], slot: usize, restore: bool) {
    if restore {
        live.clone_from_slice(&snapshots[slot]);
    } else {
        snapshots[slot].clone_from_slice(live);
    }
}

/// The factor on the learning rate while steps with a cut are left.
pub fn cut_learning_rate(memory: &SnapshotMemory, factor: f64, effect: &mut Effect) {
    if memory.cut_left > 0 {
        effect.learning_rate_factor *= factor;
        effect.events |= Event::LearningRateCut as u32;
    }
}

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
