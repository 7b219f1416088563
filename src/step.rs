//! The two small blocks that steer a step, and the record it leaves behind.
//!
//! [`StepInput`] is written by the host only, [`StepState`] by kernels only, so nothing in a step
//! has to wait for the other side. `shaders/shared/step_state.wgsl` holds the WGSL halves; the
//! contract test compares field by field.

use bytemuck::{Pod, Zeroable};

/// Declares a plain struct of scalars together with its field table, which the contract test
/// compares with the WGSL struct of the same name.
macro_rules! device_struct {
    ($(#[$doc:meta])* $Struct:ident { $($(#[$field_doc:meta])* $field:ident: $ty:tt),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
        pub struct $Struct { $($(#[$field_doc])* pub $field: $ty),* }

        impl $Struct {
            /// Name, offset in bytes and type of each field.
            pub const FIELDS: &[crate::kernel::Field] = &[$(crate::kernel::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($Struct, $field),
                ty: stringify!($ty),
            }),*];
        }
    };
}
pub(crate) use device_struct;

device_struct! {
    /// What the host tells a step. One per microbatch.
    StepInput {
        /// Seed of every random stream of the run.
        seed: u32,
        /// Steps attempted before this one, skipped ones included.
        step: u32,
        /// Index of the microbatch within the step.
        microbatch: u32,
        /// Multiplies the scheduled learning rate; 1 unless the host intervenes.
        learning_rate_factor: f32,
    }
}

device_struct! {
    /// What kernels know of the run. Everything a step commits obeys `verdict`.
    StepState {
        /// Factor on the loss before the backward pass.
        loss_scale: f32,
        /// Clean steps since the loss scale last changed.
        growth_count: u32,
        /// Steps applied so far: the optimizer's and the schedule's clock.
        applied_total: u32,
        /// Steps skipped so far.
        skipped_total: u32,
        /// 1 - beta1^t, by recurrence.
        bias_correction1: f32,
        /// 1 - beta2^t, by recurrence.
        bias_correction2: f32,
        /// Global norm of the unscaled gradients before clipping; Inf if any is not finite, the
        /// largest f32 where the norm itself exceeds it.
        gradient_norm: f32,
        /// Factor of the norm clip, at most 1.
        clip_coefficient: f32,
        /// `clip_coefficient / (loss_scale * gradient_prescale)`: with the prescale, what optimizers
        /// multiply gradients with.
        gradient_scale: f32,
        /// Bound on each |gradient| after `gradient_scale`; at most 1e18, so that squares are
        /// finite.
        clip_value: f32,
        /// Learning rate of the last applied step.
        learning_rate: f32,
        /// [`APPLY`] or [`SKIP`].
        verdict: u32,
        /// Why the step was skipped; see [`Reason`].
        reason: u32,
        /// Gradient elements that are NaN or Inf in this step.
        nonfinite_count: u32,
        /// Gradient elements that are zero in this step.
        zero_count: u32,
        /// Steps skipped in a row.
        skipped_in_row: u32,
        /// 1; a smaller power of two where `gradient_scale` alone would be below f32's normal range,
        /// as it is when gradients near f32's limit are clipped.
        gradient_prescale: f32,
    }
}

device_struct! {
    /// One line of the telemetry ring.
    TelemetryRecord {
        /// Steps attempted before this one; the record's number.
        step: u32,
        /// Loss of the step, mean over its microbatches.
        loss: f32,
        /// See [`StepState::gradient_norm`].
        gradient_norm: f32,
        /// See [`StepState::clip_coefficient`].
        clip_coefficient: f32,
        /// Loss scale this step ran with.
        loss_scale: f32,
        /// 1 if the step was applied, 0 if it was skipped.
        applied: u32,
        /// Steps skipped so far, this one included.
        skipped_total: u32,
        /// See [`StepState::learning_rate`].
        learning_rate: f32,
        /// See [`Reason`].
        reason: u32,
        /// Gradient elements that were NaN or Inf.
        nonfinite_count: u32,
        /// Gradient elements that were zero.
        zero_count: u32,
        /// Steps applied so far, this one included.
        applied_total: u32,
    }
}

device_struct! {
    /// What one workgroup of the gradient scan found in its chunk.
    ScanPartial {
        /// Largest |g| of the chunk, as bits: the order of non-negative floats is that of their
        /// bits, with Inf and NaN on top.
        max_bits: u32,
        /// Sum of (|g| / 2^e)², where 2^e is the power of two at or below the largest |g|, at least
        /// 2^-126; 0 for a chunk of zeros, without meaning where an element is not finite.
        scaled_sum: f32,
        /// Elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
    }
}

device_struct! {
    /// One chunk of a flat parameter buffer: the share of one workgroup.
    Chunk {
        /// First quad in the flat buffer.
        offset: u32,
        /// Quads.
        quads: u32,
        /// Row of the tensor table.
        tensor: u32,
        /// Quads of padding are counted in `quads`; this many elements are real.
        elements: u32,
    }
}

device_struct! {
    /// Settings of one tensor that optimizers obey.
    TensorSettings {
        /// Factor on the optimizer's weight decay; 0 switches it off.
        weight_decay: f32,
        /// Factor on the learning rate.
        learning_rate: f32,
    }
}

/// `StepState::verdict` of a step that commits.
pub const APPLY: u32 = 1;
/// `StepState::verdict` of a step that changes nothing.
pub const SKIP: u32 = 0;

/// Why a step was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// It was not.
    None = 0,
    /// A gradient element is NaN or Inf.
    NonFiniteGradient = 1,
}

impl Reason {
    /// The reason with this number; unknown numbers give `None`.
    pub const fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::NonFiniteGradient,
            _ => Self::None,
        }
    }
}
