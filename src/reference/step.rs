//! The step family as plain f64 loops.

use crate::step::{APPLY, StepInput, StepState, TelemetryRecord};

/// What a gradient, or a part of it, holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scan {
    /// Largest magnitude of the finite elements.
    pub largest: f64,
    /// Sum of squares of the finite elements. Squares of f32 values neither overflow nor vanish
    /// in f64, so nothing is scaled here.
    pub sum_of_squares: f64,
    /// Elements that are NaN or Inf.
    pub nonfinite_count: u32,
    /// Elements that are zero.
    pub zero_count: u32,
}

/// Largest magnitude, sum of squares and counts.
pub fn gradient_scan(gradient: &[f64]) -> Scan {
    let mut scan = Scan::default();
    for &g in gradient {
        if g.is_finite() {
            scan.largest = scan.largest.max(g.abs());
            scan.sum_of_squares += g * g;
            scan.zero_count += u32::from(g == 0.0);
        } else {
            scan.nonfinite_count += 1;
        }
    }
    scan
}

/// Norm of the unscaled gradient.
pub fn gradient_norm(norm: Norm, scan: &Scan, loss_scale: f64) -> f64 {
    if scan.nonfinite_count > 0 {
        return f64::INFINITY;
    }
    let scaled = match norm {
        Norm::L2 => scan.sum_of_squares.sqrt(),
        Norm::Max => scan.largest,
    };
    scaled / loss_scale
}

/// Which norm is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Root of the sum of squares.
    L2,
    /// Largest magnitude.
    Max,
}

/// Settings of [`verdict`].
#[derive(Clone, Debug)]
pub struct VerdictSettings {
    /// Which norm is measured.
    pub norm: Norm,
    /// Norms above are clipped to it; the largest f32 for no clip.
    pub max_norm: f64,
    /// Bound on each |gradient| after the norm clip.
    pub clip_value: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Learning rate of each applied step; the last one holds for all after it.
    pub learning_rates: Vec<f64>,
    /// How the loss scale moves; it stays as it is without.
    pub scaling: Option<Scaling>,
    /// Skipped steps in a row after which training gives up; 0 for never.
    pub give_up_after: u32,
}

/// How the loss scale moves: torch.amp.GradScaler, with Megatron-LM's hysteresis.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Factor after `interval` clean steps.
    pub growth: f64,
    /// Factor at an overflow.
    pub backoff: f64,
    /// Clean steps until the scale grows.
    pub interval: u32,
    /// Smallest scale.
    pub min: f64,
    /// Largest scale.
    pub max: f64,
    /// Overflows until the scale backs off.
    pub hysteresis: u32,
    /// Whether a clean step refills the count of overflows; growth does in any case.
    pub refill_every_step: bool,
    /// Whether an overflow at the smallest scale ends training.
    pub give_up_at_min: bool,
}

/// [`StepState`] as far as [`verdict`] and the optimizers are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    /// Factor on the loss.
    pub loss_scale: f64,
    /// Clean steps since the scale last changed.
    pub growth_count: u32,
    /// Overflows until the scale backs off.
    pub hysteresis_left: u32,
    /// Whether training has given up.
    pub gave_up: bool,
    /// Steps applied so far.
    pub applied_total: u32,
    /// Steps skipped so far.
    pub skipped_total: u32,
    /// Steps skipped in a row.
    pub skipped_in_row: u32,
    /// 1 - beta1^t.
    pub bias_correction1: f64,
    /// 1 - beta2^t.
    pub bias_correction2: f64,
    /// Norm of the unscaled gradient before clipping; Inf in a skipped step.
    pub gradient_norm: f64,
    /// Factor of the norm clip.
    pub clip_coefficient: f64,
    /// clip_coefficient / loss_scale.
    pub gradient_scale: f64,
    /// Bound on each |gradient| after `gradient_scale`.
    pub clip_value: f64,
    /// Learning rate of the last applied step.
    pub learning_rate: f64,
    /// Whether the step commits.
    pub applied: bool,
}

/// The state after a step with this gradient; its loss and new states are finite.
pub fn verdict(
    settings: &VerdictSettings,
    scan: &Scan,
    learning_rate_factor: f64,
    state: &State,
) -> State {
    if state.gave_up || scan.nonfinite_count > 0 {
        let skipped_in_row = state.skipped_in_row + 1;
        let give_up = settings.give_up_after > 0 && skipped_in_row >= settings.give_up_after;
        let skipped = State {
            skipped_total: state.skipped_total + 1,
            skipped_in_row,
            gradient_norm: gradient_norm(settings.norm, scan, state.loss_scale),
            applied: false,
            gave_up: state.gave_up || give_up,
            ..*state
        };
        return match settings.scaling {
            Some(scaling) if !state.gave_up => back_off(&scaling, skipped),
            _ => skipped,
        };
    }
    let gradient_norm = gradient_norm(settings.norm, scan, state.loss_scale);
    let clips = gradient_norm > settings.max_norm;
    let clip_coefficient = if clips { settings.max_norm / gradient_norm } else { 1.0 };
    let applied_total = state.applied_total + 1;
    let last = settings.learning_rates.len() - 1;
    let scheduled = settings.learning_rates[(state.applied_total as usize).min(last)];
    let applied = State {
        applied_total,
        skipped_in_row: 0,
        bias_correction1: 1.0 - settings.beta1.powi(applied_total as i32),
        bias_correction2: 1.0 - settings.beta2.powi(applied_total as i32),
        gradient_norm: gradient_norm.min(f32::MAX.into()),
        clip_coefficient,
        gradient_scale: clip_coefficient / state.loss_scale,
        clip_value: settings.clip_value.min(1e18),
        learning_rate: scheduled * learning_rate_factor,
        applied: true,
        ..*state
    };
    settings.scaling.map_or(applied, |scaling| grow(&scaling, applied))
}

fn back_off(scaling: &Scaling, mut state: State) -> State {
    state.growth_count = 0;
    state.hysteresis_left = state.hysteresis_left.saturating_sub(1);
    if state.hysteresis_left == 0 {
        state.gave_up |= scaling.give_up_at_min && state.loss_scale <= scaling.min;
        state.loss_scale =
            state.loss_scale.min((state.loss_scale * scaling.backoff).max(scaling.min));
    }
    state
}

fn grow(scaling: &Scaling, mut state: State) -> State {
    state.growth_count += 1;
    let grows = state.growth_count == scaling.interval;
    if grows || scaling.refill_every_step {
        state.hysteresis_left = scaling.hysteresis;
    }
    if grows {
        state.growth_count = 0;
        let larger = state.loss_scale * scaling.growth;
        if larger <= scaling.max.min(f32::MAX.into()) {
            state.loss_scale = larger;
        }
    }
    state
}

/// Gradient of the scaled loss with respect to the loss.
pub fn seed_gradient(loss_scale: f64, factor: f64) -> f64 {
    loss_scale * factor
}

/// What `committed` holds afterwards.
pub fn commit(verdict: u32, staged: &[u32], committed: &[u32]) -> Vec<u32> {
    if verdict == APPLY { staged.to_vec() } else { committed.to_vec() }
}

/// The record of a step; the loss comes and goes as bits.
pub fn telemetry(input: &StepInput, state: &StepState, loss_bits: u32) -> TelemetryRecord {
    TelemetryRecord {
        step: input.step,
        loss: f32::from_bits(loss_bits),
        gradient_norm: state.gradient_norm,
        max_norm: state.max_norm,
        clip_coefficient: state.clip_coefficient,
        loss_scale: state.step_loss_scale,
        applied: u32::from(state.verdict == APPLY),
        skipped_total: state.skipped_total,
        skipped_in_row: state.skipped_in_row,
        learning_rate: state.learning_rate,
        reason: state.reason,
        nonfinite_count: state.nonfinite_count,
        zero_count: state.zero_count,
        applied_total: state.applied_total,
        gave_up: state.gave_up,
        events: state.events,
        event_value: state.event_value,
        event_tensor: state.event_tensor,
    }
}

/// What a tensor held in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateRange {
    /// Largest finite |g|, loss scale included, and the sum of the squares of the finite g.
    pub gradient: (f64, f64),
    /// The same of the weights after the update.
    pub weight: (f64, f64),
    /// The same of their changes.
    pub update: (f64, f64),
    /// Gradients that are NaN or Inf.
    pub nonfinite_count: u32,
    /// Gradients that are zero.
    pub zero_count: u32,
    /// Weights that stood still although their gradient is not zero.
    pub frozen_count: u32,
    /// Gradients that a clip by value cut.
    pub cut_count: u32,
}

/// Ranges and counts of a part; `scale` is the factor on gradients before the clip by value.
pub fn update_scan(
    gradient: &[f64],
    old: &[f64],
    weight: &[f64],
    scale: f64,
    clip_value: f64,
) -> UpdateRange {
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let join = |(largest, sum): (f64, f64), x: f64| (x.abs().max(largest), sum + x * x);
        values.filter(|x| x.is_finite()).fold((0.0, 0.0), join)
    };
    let count =
        |test: &dyn Fn(usize) -> bool| (0..weight.len()).filter(|&i| test(i)).count() as u32;
    UpdateRange {
        gradient: range(&mut gradient.iter().copied()),
        weight: range(&mut weight.iter().copied()),
        update: range(&mut weight.iter().zip(old).map(|(new, old)| new - old)),
        nonfinite_count: count(&|i| !gradient[i].is_finite()),
        zero_count: count(&|i| gradient[i] == 0.0),
        frozen_count: count(&|i| gradient[i] != 0.0 && weight[i] == old[i]),
        cut_count: count(&|i| (gradient[i] * scale).abs() > clip_value),
    }
}

/// What parts held together.
pub fn tensor_telemetry(parts: &[UpdateRange]) -> UpdateRange {
    let join = |a: (f64, f64), b: (f64, f64)| (a.0.max(b.0), a.1 + b.1);
    parts.iter().fold(UpdateRange::default(), |a, b| UpdateRange {
        gradient: join(a.gradient, b.gradient),
        weight: join(a.weight, b.weight),
        update: join(a.update, b.update),
        nonfinite_count: a.nonfinite_count + b.nonfinite_count,
        zero_count: a.zero_count + b.zero_count,
        frozen_count: a.frozen_count + b.frozen_count,
        cut_count: a.cut_count + b.cut_count,
    })
}

/// y = factor * x, plus what was in y if given.
pub fn accumulate(factor: f64, x: &[f64], y: Option<&[f64]>) -> Vec<f64> {
    let before = |i| y.map_or(0.0, |y| y[i]);
    x.iter().enumerate().map(|(i, x)| before(i) + factor * x).collect()
}
