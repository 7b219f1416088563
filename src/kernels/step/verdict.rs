//! The verdict closes a step: whether anything is committed, and how the next step is scaled.

use crate::kernel::Fragment;
use crate::kernel::shared::{NUMERICS, STEP_STATE, WIDE};
use crate::{kernel, wgsl};

/// `scheduled_rate`: the learning rate after so many applied steps; wants [`WIDE`].
pub const SCHEDULE: Fragment = wgsl!("../../../shaders/step/shared/schedule.wgsl");
/// `back_off`, `grow`: the next loss scale; wants [`STEP_STATE`].
pub const LOSS_SCALE: Fragment = wgsl!("../../../shaders/step/shared/loss_scale.wgsl");

kernel! {
    /// Clip coefficient, verdict and the next loss scale; closes the step.
    ///
    /// A gradient with an overflow, a loss or a staged state that is NaN or Inf, or a policy's veto
    /// gives [`SKIP`](crate::step::SKIP): reason and skip counters are written, an overflow of the
    /// gradient may lower the loss scale, and all else stays as it was. The first of these is the
    /// reason. The loss scale follows `torch.amp.GradScaler`, with the hysteresis of Megatron-LM.
    pub Verdict = [
        STEP_STATE, WIDE, NUMERICS, LOSS_SCALE, SCHEDULE,
        wgsl!("../../../shaders/step/verdict.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform VerdictParams {
        /// Rows of the tensor table.
        tensor_count: u32,
        /// Bound on each |gradient| after the norm clip. 1e18 is the most, and off.
        clip_value: f32,
        /// Decay of the first moment, for its bias correction.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment, for its bias correction.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Applied steps that take their learning rates from the start of the table.
        rising_steps: u32,
        /// Applied steps before which those after the rise take their learning rates from the middle
        /// of the table; 0 for no middle.
        middle_end: u32,
        /// Applied steps from which on the middle is counted; before, its first entry holds.
        middle_start: u32,
        /// First entry of the middle.
        middle_first: u32,
        /// Applied steps at which the learning rate is that of entry `decay_first`, for ever.
        decay_end: u32,
        /// First entry of those that are counted from `decay_end` backwards.
        decay_first: u32,
        /// Each step up to two to this plus 1 has an entry, counted from either; further out two to
        /// this many entries serve a doubling, with lines between. 31: every step has its own.
        knot_bits: u32,
        /// Factor on the loss scale after `growth_interval` clean steps in a row.
        growth_factor: f32,
        /// Factor on the loss scale at an overflow.
        backoff_factor: f32,
        /// Clean steps until the loss scale grows; 0 keeps it as it is.
        growth_interval: u32,
        /// The loss scale does not fall below.
        min_scale: f32,
        /// The loss scale does not rise above.
        max_scale: f32,
        /// Overflows, counted down, until the loss scale backs off; at least 1.
        hysteresis: u32,
        /// When the count of overflows is refilled: 0 when the loss scale grows, 1 at every clean
        /// step too.
        refill_every_step: u32,
        /// Skipped steps in a row after which all further steps are skipped; 0 for never.
        give_up_after: u32,
        /// 1: an overflow at `min_scale` ends training as well.
        give_up_at_min_scale: u32,
        /// Quads of staged states; 0 without any.
        staged_quads: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// Learning rates over applied steps. For a list of n, one for each and the last for all
        /// later ones: `rising_steps` and `decay_first` are n - 1, and `decay_end` is 0.
        Read learning_rates,
        /// f32 (1): loss of the step, as [`LossMean`](crate::kernels::LossMean) leaves it.
        Read loss,
        /// f32 (4 staged_quads): what [`Commit`](super::Commit) is to commit; any 16 bytes without
        /// states.
        Read staged,
        /// (tensor_count) [`TensorState`](crate::step::TensorState), advanced.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState), advanced.
        Write state,
    }
}

impl VerdictParams {
    /// A constant loss scale and learning rate, no clip by value, and never giving up.
    pub const fn new(tensor_count: u32, [beta1, beta2]: [f64; 2]) -> Self {
        Self {
            tensor_count,
            clip_value: 1e18,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            rising_steps: 0,
            middle_end: 0,
            middle_start: 0,
            middle_first: 0,
            decay_end: 0,
            decay_first: 0,
            knot_bits: 31,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 0,
            min_scale: 1.0,
            max_scale: f32::MAX,
            hysteresis: 1,
            refill_every_step: 0,
            give_up_after: 0,
            give_up_at_min_scale: 0,
            staged_quads: 0,
        }
    }
}
