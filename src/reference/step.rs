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

/// Which norm clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// None does; the L2 norm is measured.
    None,
    /// Root of the sum of squares.
    L2,
    /// Largest magnitude.
    Max,
}

/// Settings of [`verdict`].
#[derive(Clone, Debug)]
pub struct VerdictSettings {
    /// Which norm clips.
    pub norm: Norm,
    /// Norms above are clipped to it.
    pub max_norm: f64,
    /// Bound on each |gradient| after the norm clip.
    pub clip_value: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Learning rate of each applied step; the last one holds for all after it.
    pub learning_rates: Vec<f64>,
}

/// [`StepState`] as far as [`verdict`] and the optimizers are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    /// Factor on the loss.
    pub loss_scale: f64,
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

/// The state after a step with this gradient.
pub fn verdict(
    settings: &VerdictSettings,
    scan: &Scan,
    learning_rate_factor: f64,
    state: &State,
) -> State {
    if scan.nonfinite_count > 0 {
        return State {
            skipped_total: state.skipped_total + 1,
            skipped_in_row: state.skipped_in_row + 1,
            gradient_norm: f64::INFINITY,
            applied: false,
            ..*state
        };
    }
    let scaled_norm = match settings.norm {
        Norm::None | Norm::L2 => scan.sum_of_squares.sqrt(),
        Norm::Max => scan.largest,
    };
    let gradient_norm = scaled_norm / state.loss_scale;
    let clips = settings.norm != Norm::None && gradient_norm > settings.max_norm;
    let clip_coefficient = if clips { settings.max_norm / gradient_norm } else { 1.0 };
    let applied_total = state.applied_total + 1;
    let last = settings.learning_rates.len() - 1;
    let scheduled = settings.learning_rates[(state.applied_total as usize).min(last)];
    State {
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
    }
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
        clip_coefficient: state.clip_coefficient,
        loss_scale: state.loss_scale,
        applied: u32::from(state.verdict == APPLY),
        skipped_total: state.skipped_total,
        learning_rate: state.learning_rate,
        reason: state.reason,
        nonfinite_count: state.nonfinite_count,
        zero_count: state.zero_count,
        applied_total: state.applied_total,
    }
}

/// y = factor * x, plus what was in y if given.
pub fn accumulate(factor: f64, x: &[f64], y: Option<&[f64]>) -> Vec<f64> {
    let before = |i| y.map_or(0.0, |y| y[i]);
    x.iter().enumerate().map(|(i, x)| before(i) + factor * x).collect()
}
