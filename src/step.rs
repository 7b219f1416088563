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
    /// What one workgroup of a value scan found in its share.
    ValuePartial {
        /// Largest finite magnitude, as bits.
        max_bits: u32,
        /// Sum of (|x| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126.
        scaled_sum: f32,
        /// Elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Elements that are zero.
        zero_count: u32,
        /// Elements below the smallest normal number of their storage, but not zero.
        subnormal_count: u32,
        /// Index of the first element that is not finite, counted without padding; `u32::MAX` for
        /// none.
        first_nonfinite: u32,
    }
}

device_struct! {
    /// What one workgroup found in its chunk of gradient, weights and their change.
    UpdatePartial {
        /// Largest finite |g|, loss scale included, as bits.
        gradient_max_bits: u32,
        /// Sum of (|g| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126. The sums below count likewise.
        gradient_sum: f32,
        /// Largest finite weight after the update, as bits.
        weight_max_bits: u32,
        /// Sum of squares of the weights.
        weight_sum: f32,
        /// Largest change of a weight, as bits.
        update_max_bits: u32,
        /// Sum of squares of the changes.
        update_sum: f32,
        /// Gradient elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Gradient elements that are zero, padding included.
        zero_count: u32,
        /// Weights that did not change although their gradient is not zero.
        frozen_count: u32,
        /// Gradient elements that a clip by value cut.
        cut_count: u32,
    }
}

device_struct! {
    /// The same of a whole tensor in one step.
    TensorRecord {
        /// Number of the step.
        step: u32,
        /// Loss scale it ran with.
        loss_scale: f32,
        /// Largest finite |g|, loss scale included, as bits.
        gradient_max_bits: u32,
        /// Sum of (|g| / 2^e)² over finite elements, where 2^e is the power of two at or below the
        /// largest, at least 2^-126 and at most 2^126. The sums below count likewise.
        gradient_sum: f32,
        /// Largest finite weight after the update, as bits.
        weight_max_bits: u32,
        /// Sum of squares of the weights.
        weight_sum: f32,
        /// Largest change of a weight, as bits.
        update_max_bits: u32,
        /// Sum of squares of the changes.
        update_sum: f32,
        /// Gradient elements that are NaN or Inf.
        nonfinite_count: u32,
        /// Gradient elements that are zero, padding included.
        zero_count: u32,
        /// Weights that did not change although their gradient is not zero.
        frozen_count: u32,
        /// Gradient elements that a clip by value cut.
        cut_count: u32,
        /// Share of elements whose second moment has a root below eps; below 0 where unknown.
        eps_share: f32,
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
    /// One tensor as optimizers see it: its settings, and what policies and the verdict say of it.
    TensorState {
        /// Factor on the optimizer's weight decay; 0 switches it off.
        weight_decay: f32,
        /// Factor on the learning rate.
        learning_rate: f32,
        /// Factor on this tensor's gradient in this step, beside the global one; at most 1.
        clip_coefficient: f32,
        /// 1 - beta1^steps, by recurrence.
        bias_correction1: f32,
        /// 1 - beta2^steps, by recurrence.
        bias_correction2: f32,
        /// Applied steps since the moments of this tensor were last empty, this one included. At 1
        /// optimizers take what they keep per element for zero, whatever is there.
        steps: u32,
        /// 1 where a policy wants the moments emptied; the next applied step does it.
        reset: u32,
    }
}

/// Settings of one tensor that optimizers obey.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorSettings {
    /// Factor on the optimizer's weight decay; 0 switches it off.
    pub weight_decay: f32,
    /// Factor on the learning rate.
    pub learning_rate: f32,
}

impl From<TensorSettings> for TensorState {
    /// Before the first step.
    fn from(settings: TensorSettings) -> Self {
        Self {
            weight_decay: settings.weight_decay,
            learning_rate: settings.learning_rate,
            clip_coefficient: 1.0,
            ..Self::default()
        }
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
    /// A gradient element is NaN or Inf, or with a loss scale the largest f32.
    NonFiniteGradient = 1,
    /// Training had given up before.
    GaveUp = 2,
    /// A policy found the loss out of line.
    LossSpike = 3,
    /// A policy found the gradient norm out of line.
    NormSpike = 4,
    /// The run went back to a snapshot.
    RolledBack = 5,
    /// The loss of a microbatch is NaN or Inf, or their mean is, while the gradients are finite.
    NonFiniteLoss = 6,
    /// A new value of a state, such as a running variance, is NaN or Inf, while loss and gradients
    /// are finite.
    NonFiniteState = 7,
}

impl Reason {
    /// The reason with this number; unknown numbers give `None`.
    pub const fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::NonFiniteGradient,
            2 => Self::GaveUp,
            3 => Self::LossSpike,
            4 => Self::NormSpike,
            5 => Self::RolledBack,
            6 => Self::NonFiniteLoss,
            7 => Self::NonFiniteState,
            _ => Self::None,
        }
    }
}

/// What a policy did in a step; a bit each of [`StepState::events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// Saw a loss out of line.
    LossSpike = 1,
    /// Saw a norm out of line.
    NormSpike = 2,
    /// Clipped harder than the settings say.
    ClippedHarder = 4,
    /// Ran with a learning rate below the schedule's.
    LearningRateCut = 8,
    /// Emptied the moments of a tensor.
    MomentsReset = 16,
    /// Went back to a snapshot.
    RolledBack = 32,
    /// Took a snapshot.
    Snapshot = 64,
    /// The loss scale went down.
    LossScaleDown = 128,
    /// The loss scale went up.
    LossScaleUp = 256,
}

impl Event {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 9] = [
        Self::LossSpike,
        Self::NormSpike,
        Self::ClippedHarder,
        Self::LearningRateCut,
        Self::MomentsReset,
        Self::RolledBack,
        Self::Snapshot,
        Self::LossScaleDown,
        Self::LossScaleUp,
    ];

    /// The events that `bits` holds.
    pub fn from_bits(bits: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |&event| bits & event as u32 != 0)
    }
}
