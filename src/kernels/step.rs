//! Kernels that frame a step: the loss scale goes in, the gradient is scanned, one verdict says
//! whether anything is committed, and a record is left.
//!
//! [`GradientScan`], [`GradientNorm`] and [`Verdict`] work on bits and integer exponents where it
//! matters, so the norm is right for every finite gradient and no test depends on NaN arithmetic.

use crate::kernel::shared::{
    GRID, LANES_64, NUMERICS, OPEN_STEP, REDUCE, SCAN_FOLD, SCAN_PARTIAL, STEP_STATE, WEIGHT_F32,
    WIDE,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::step::Chunk;
use crate::{kernel, wgsl};

/// `scheduled_rate`: the learning rate after so many applied steps; wants [`WIDE`].
pub const SCHEDULE: Fragment = wgsl!("../../shaders/step/shared/schedule.wgsl");
/// `back_off`, `grow`: the next loss scale; wants [`STEP_STATE`].
pub const LOSS_SCALE: Fragment = wgsl!("../../shaders/step/shared/loss_scale.wgsl");
/// `join_largest`, `join_sums` of update partials; wants [`STEP_STATE`] and [`REDUCE`].
pub const UPDATE_PARTIAL: Fragment = wgsl!("../../shaders/step/shared/update_partial.wgsl");

/// The most quads in one [`Chunk`]: 64 invocations with 8 quads each.
pub const CHUNK_QUADS: u32 = 512;

/// [`GradientNormParams::norm`]: the L2 norm.
pub const NORM_L2: u32 = 0;
/// [`GradientNormParams::norm`]: the largest magnitude.
pub const NORM_MAX: u32 = 1;
/// [`GradientScanParams::overflow_bits`]: NaN and Inf.
pub const OVERFLOW_NONFINITE: u32 = 0x7f80_0000;
/// [`GradientScanParams::overflow_bits`]: the largest f32 as well, to which an overflow may have
/// been rounded.
pub const OVERFLOW_LARGEST: u32 = 0x7f7f_ffff;

/// Splits tensors, each (offset, elements) in elements of a flat buffer, into the shares of
/// workgroups. A chunk never spans two tensors; an empty tensor has none.
///
/// # Panics
/// If an offset is not a multiple of 4, or lies past 2^32 quads.
pub fn chunks(tensors: impl IntoIterator<Item = (u64, u64)>) -> Vec<Chunk> {
    const ELEMENTS: u64 = 4 * CHUNK_QUADS as u64;
    let mut chunks = Vec::new();
    for (tensor, (offset, elements)) in (0..).zip(tensors) {
        assert!(offset.is_multiple_of(4), "tensor {tensor} starts within a quad, at {offset}");
        for start in (0..elements).step_by(ELEMENTS as usize) {
            let share = (elements - start).min(ELEMENTS) as u32;
            chunks.push(Chunk {
                offset: u32::try_from((offset + start) / 4).expect("at most 2^32 quads"),
                quads: share.div_ceil(4),
                tensor,
                elements: share,
            });
        }
    }
    chunks
}

kernel! {
    /// Largest magnitude, scaled sum of squares and counts of each chunk of the gradient.
    pub GradientScan = [
        STEP_STATE, GRID, WIDE, SCAN_PARTIAL, SCAN_FOLD,
        wgsl!("../../shaders/step/gradient_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform GradientScanParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Magnitudes with these bits or more count as overflow: [`OVERFLOW_NONFINITE`] or
        /// [`OVERFLOW_LARGEST`].
        overflow_bits: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`]
        Read chunks,
        /// Flat gradient in quads; padding is zero.
        Read gradient,
        /// (chunk_count) [`ScanPartial`](crate::step::ScanPartial), overwritten.
        Write partials,
    }
}

kernel! {
    /// Global norm and counts of the gradient; opens the step.
    pub GradientNorm = [
        STEP_STATE, WIDE, SCAN_PARTIAL, SCAN_FOLD, OPEN_STEP,
        wgsl!("../../shaders/step/gradient_norm.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform GradientNormParams {
        /// Partials; 0 is a norm of 0.
        partial_count: u32,
        /// Rows of the tensor table.
        tensor_count: u32,
        /// [`NORM_L2`] or [`NORM_MAX`].
        norm: u32,
        /// Norms above are clipped to it, unless a policy says less.
        max_norm: f32,
    }
    buffers {
        /// (partial_count) [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients are reset.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState): the fields of the step.
        Write state,
    }
}

kernel! {
    /// Clip coefficient, verdict and the next loss scale; closes the step.
    ///
    /// A gradient with an overflow, a loss or a staged state that is NaN or Inf, or a policy's veto
    /// gives [`SKIP`](crate::step::SKIP): reason and skip counters are written, an overflow of the
    /// gradient may lower the loss scale, and all else stays as it was. The first of these is the
    /// reason. The loss scale follows `torch.amp.GradScaler`, with the hysteresis of Megatron-LM.
    pub Verdict = [
        STEP_STATE, WIDE, NUMERICS, LOSS_SCALE, SCHEDULE, wgsl!("../../shaders/step/verdict.wgsl"),
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
        /// f32 (1): loss of the step, as [`LossMean`](super::LossMean) leaves it.
        Read loss,
        /// f32 (4 staged_quads): what [`Commit`] is to commit; any 16 bytes without states.
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

kernel! {
    /// y = loss_scale * factor: where the backward pass starts.
    pub SeedGradient = [STEP_STATE, wgsl!("../../shaders/step/seed_gradient.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform SeedGradientParams {
        /// Weight of the loss, such as 1 / microbatches.
        factor: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1), overwritten.
        Write y,
    }
}

kernel! {
    /// committed = staged where the step is applied, else nothing is written.
    pub Commit = [STEP_STATE, GRID, wgsl!("../../shaders/step/commit.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CommitParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (quads), of any 4-byte type.
        Read staged,
        /// (quads), overwritten or left alone.
        Write committed,
    }
}

kernel! {
    /// Records the step in the ring.
    pub Telemetry = [STEP_STATE, wgsl!("../../shaders/step/telemetry.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform TelemetryParams {
        /// Records in the ring.
        capacity: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1) f32
        Read loss,
        /// (capacity) [`TelemetryRecord`](crate::step::TelemetryRecord), one overwritten.
        Write ring,
    }
}

kernel! {
    /// What gradient, weights and their change hold in each chunk, after an update.
    pub UpdateScan = [
        STEP_STATE, GRID, WEIGHT_F32, WIDE, LANES_64, REDUCE, UPDATE_PARTIAL,
        wgsl!("../../shaders/step/update_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform UpdateScanParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`]
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat f32 gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Flat f32 weights before the update, as [`LoadWeights`](super::LoadWeights) gives them.
        Read old,
        /// Flat weights after it, in the optimizer's storage; they are only read.
        Write weight,
        /// (chunk_count) [`UpdatePartial`](crate::step::UpdatePartial), overwritten.
        Write partials,
    }
}

kernel! {
    /// What the chunks of each tensor held together, into a ring.
    pub TensorTelemetry = [
        STEP_STATE, GRID, WIDE, LANES_64, REDUCE, UPDATE_PARTIAL,
        wgsl!("../../shaders/step/tensor_telemetry.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.tensor_count);
    uniform TensorTelemetryParams {
        /// Tensors.
        tensor_count: u32,
        /// Steps between two records.
        every: u32,
        /// Records of each tensor in the ring.
        capacity: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (tensor_count) [`Segment`](super::Segment): the chunks of each tensor.
        Read segments,
        /// [`UpdatePartial`](crate::step::UpdatePartial) of each chunk
        Read partials,
        /// (tensor_count): see
        /// [`Optimizer::record_eps_shares`](crate::train::Optimizer::record_eps_shares).
        Read eps_shares,
        /// (capacity, tensor_count) [`TensorRecord`](crate::step::TensorRecord), a row overwritten.
        Write ring,
    }
}

kernel! {
    /// y = factor * x, or y += factor * x.
    pub Accumulate = [GRID, wgsl!("../../shaders/step/accumulate.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform AccumulateParams {
        /// Quads of f32 in each buffer.
        quads: u32,
        /// Factor on x.
        factor: f32,
        /// 0 overwrites y, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten or added to.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    GradientScan::DECLARATION,
    GradientNorm::DECLARATION,
    Verdict::DECLARATION,
    SeedGradient::DECLARATION,
    Commit::DECLARATION,
    Telemetry::DECLARATION,
    UpdateScan::DECLARATION,
    TensorTelemetry::DECLARATION,
    Accumulate::DECLARATION,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once() {
        let mut offset = 0;
        let tensors: Vec<_> = [0, 1, 4, 2047, 2048, 2049, 0, 65_537, 3, 0]
            .into_iter()
            .map(|elements: u64| {
                let tensor = (offset, elements);
                offset += elements.next_multiple_of(4);
                tensor
            })
            .collect();
        let mut covered = vec![0; tensors.len()];
        for chunk in chunks(tensors.iter().copied()) {
            let (offset, elements) = tensors[chunk.tensor as usize];
            let done = &mut covered[chunk.tensor as usize];
            assert_eq!(u64::from(chunk.offset) * 4, offset + *done, "{chunk:?}");
            assert_eq!(chunk.quads, chunk.elements.div_ceil(4), "{chunk:?}");
            assert!((1..=CHUNK_QUADS).contains(&chunk.quads), "{chunk:?}");
            *done += u64::from(chunk.elements);
            assert!(*done <= elements, "{chunk:?}");
        }
        let elements: Vec<_> = tensors.iter().map(|&(_, elements)| elements).collect();
        assert_eq!(covered, elements);
    }

    #[test]
    #[should_panic(expected = "starts within a quad")]
    fn chunks_refuse_an_offset_within_a_quad() {
        chunks([(0, 2), (2, 2)]);
    }

    #[test]
    fn chunks_reach_past_4_gib() {
        let far = chunks([(1 << 33, 5)]);
        assert_eq!(far, [Chunk { offset: 1 << 31, quads: 2, tensor: 0, elements: 5 }]);
    }
}
