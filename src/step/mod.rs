//! The two small blocks that steer a step, and the record it leaves behind.
//!
//! [`StepInput`] is written by the host only, [`StepState`] by kernels only, so nothing in a step
//! has to wait for the other side. `shaders/shared/step_state.wgsl` holds the WGSL halves; the
//! contract test compares field by field.

mod device_struct;
mod outcome;
mod partials;
mod tensors;

use bytemuck::{Pod, Zeroable};
pub(crate) use device_struct::device_struct;
pub use outcome::{APPLY, Event, Reason, SKIP};
pub use partials::{ScanPartial, TensorRecord, UpdatePartial, ValuePartial};
pub use tensors::{Chunk, TensorSettings, TensorState};

device_struct! {
    /// What the host tells a step. One per microbatch.
    StepInput {
        /// Seed of every random stream of the run.
        seed: u32,
        /// Steps attempted before this one, skipped ones included.
        step: u32,
        /// Index of the microbatch within the step, among those of this rank.
        microbatch: u32,
        /// Multiplies the scheduled learning rate; 1 unless the host intervenes.
        learning_rate_factor: f32,
        /// Microbatches of the step on the ranks before this one: random streams count from there.
        first_microbatch: u32,
    }
}

device_struct! {
    /// What kernels know of the run. Everything a step commits obeys `verdict`.
    ///
    /// Fields up to `seed` last; those after it belong to one step. The kernel that finds the norm
    /// opens a step: it writes norm and counts and resets what policies may set, from `veto` to
    /// `events`. Policies then look and set. The verdict closes the step.
    StepState {
        /// Factor on the loss before the backward pass, in the next step.
        loss_scale: f32,
        /// Clean steps since the loss scale last changed.
        growth_count: u32,
        /// Overflows that the loss scale still bears before it backs off.
        hysteresis_left: u32,
        /// Steps applied so far: the schedule's clock.
        applied_total: u32,
        /// Steps skipped so far.
        skipped_total: u32,
        /// Steps skipped in a row.
        skipped_in_row: u32,
        /// 0; once training has given up, the [`Reason`] of the last skip before. From then on
        /// every step is skipped.
        gave_up: u32,
        /// Seed of the run.
        seed: u32,
        /// [`APPLY`] or [`SKIP`].
        verdict: u32,
        /// Why the step was skipped; see [`Reason`].
        reason: u32,
        /// 0, or the [`Reason`] for which a policy wants this step skipped.
        veto: u32,
        /// Gradient elements that count as overflow in this step: NaN, Inf, and with a loss scale
        /// the largest f32 too.
        nonfinite_count: u32,
        /// Gradient elements that are zero in this step.
        zero_count: u32,
        /// Global norm of the unscaled gradients before clipping; Inf if any is not finite, the
        /// largest f32 where the norm itself exceeds it.
        gradient_norm: f32,
        /// The same norm, also where it lies outside f32: significand in [1, 2), or 0 ...
        norm_significand: f32,
        /// ... times two to this.
        norm_exponent: i32,
        /// Norms above are clipped to it: what the settings say, or less where a policy says so.
        max_norm: f32,
        /// Factor of the norm clip, at most 1.
        clip_coefficient: f32,
        /// `clip_coefficient / (loss_scale * gradient_prescale)`: with the prescale, what optimizers
        /// multiply gradients with.
        gradient_scale: f32,
        /// 1; a smaller power of two where `gradient_scale` alone would be below f32's normal range,
        /// as it is when gradients near f32's limit are clipped.
        gradient_prescale: f32,
        /// Bound on each |gradient| after `gradient_scale`; at most 1e18, so that squares are
        /// finite.
        clip_value: f32,
        /// Policies' factor on the learning rate of this step.
        learning_rate_factor: f32,
        /// Learning rate of the last applied step.
        learning_rate: f32,
        /// Loss scale this step ran with.
        step_loss_scale: f32,
        /// What policies did in this step, as bits of [`Event`].
        events: u32,
        /// What made the policy that set `events` act: a z-score, a ratio.
        event_value: f32,
        /// The tensor it was about, where there is one.
        event_tensor: u32,
    }
}

impl StepState {
    /// Before the first step, with this loss scale and hysteresis.
    pub fn new(loss_scale: f32, hysteresis: u32) -> Self {
        Self {
            loss_scale,
            hysteresis_left: hysteresis,
            gradient_prescale: 1.0,
            learning_rate_factor: 1.0,
            step_loss_scale: loss_scale,
            ..Self::default()
        }
    }
}

device_struct! {
    /// One line of the telemetry ring.
    TelemetryRecord {
        /// Steps attempted before this one; the record's number.
        step: u32,
        /// Loss of the step, mean over its microbatches; NaN or Inf where that of one is.
        loss: f32,
        /// See [`StepState::gradient_norm`].
        gradient_norm: f32,
        /// See [`StepState::max_norm`].
        max_norm: f32,
        /// See [`StepState::clip_coefficient`].
        clip_coefficient: f32,
        /// Loss scale this step ran with.
        loss_scale: f32,
        /// 1 if the step was applied, 0 if it was skipped.
        applied: u32,
        /// Steps skipped so far, this one included.
        skipped_total: u32,
        /// Steps skipped in a row, this one included.
        skipped_in_row: u32,
        /// See [`StepState::learning_rate`].
        learning_rate: f32,
        /// See [`Reason`].
        reason: u32,
        /// Gradient elements that counted as overflow.
        nonfinite_count: u32,
        /// Gradient elements that were zero.
        zero_count: u32,
        /// Steps applied so far, this one included.
        applied_total: u32,
        /// See [`StepState::gave_up`].
        gave_up: u32,
        /// See [`StepState::events`].
        events: u32,
        /// See [`StepState::event_value`].
        event_value: f32,
        /// See [`StepState::event_tensor`].
        event_tensor: u32,
    }
}
