//! Clipping by what norms have been, by tensor and by unit.

use bytemuck::{Pod, Zeroable};

use super::{POLICY, WORST_TENSOR};
use crate::kernel::grid;
use crate::kernel::shared::{GRID, LANES_64, REDUCE, STEP_STATE, TENSOR_NORM, WEIGHT_F32, WIDE};
use crate::step::device_struct;
use crate::{kernel, wgsl};

device_struct! {
    /// What [`ClipByZScore`] remembers.
    ZScoreMemory {
        /// Norms taken in, up to the warm-up.
        count: u32,
        /// 1 if `pending` waits for its verdict.
        is_pending: u32,
        /// Norm of the step before, clipped.
        pending: f32,
        /// Mean of the norms.
        mean: f32,
        /// Root of their variance.
        deviation: f32,
    }
}

kernel! {
    /// ZClip: clips norms whose z-score stands out (Kumar et al. 2025).
    pub ClipByZScore = [STEP_STATE, WIDE, POLICY, wgsl!("../../../shaders/policy/clip_by_z_score.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByZScoreParams {
        /// Largest z-score that is not clipped.
        threshold: f32,
        /// Weight of the old mean and variance.
        alpha: f32,
        /// 1 - alpha, rounded once.
        one_minus_alpha: f32,
        /// Norms before the first clip, at least 1.
        warmup: u32,
        /// Norms above are clipped in any case.
        max_norm: f32,
        /// Factor on the adaptive threshold.
        clip_factor: f32,
        /// Added to the deviation.
        eps: f32,
        /// 1: clip to the mean instead.
        to_mean: u32,
        /// 1: mean and variance follow what spikes are clipped to; 0: they leave spikes out.
        learn_from_spikes: u32,
    }
    buffers {
        /// (1) [`ZScoreMemory`], advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

kernel! {
    /// Clips the gradient of each tensor by its own norm.
    pub ClipTensors = [
        STEP_STATE, WIDE, LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR,
        wgsl!("../../../shaders/policy/clip_tensors.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipTensorsParams {
        /// Rows of the tensor table.
        tensor_count: u32,
    }
    buffers {
        /// (tensor_count): largest norm of each tensor.
        Read bounds,
        /// (tensor_count) [`TensorNorm`](crate::kernels::TensorNorm), loss scale included.
        Read norms,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState): events.
        Write state,
    }
}

kernel! {
    /// AdaGC: clips each tensor by an average of its own norms (Wang et al. 2025).
    pub ClipByHistory = [
        STEP_STATE, WIDE, LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR,
        wgsl!("../../../shaders/policy/clip_by_history.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByHistoryParams {
        /// Rows of the tensor table.
        tensor_count: u32,
        /// Largest norm of a tensor, beside its average.
        lambda_relative: f32,
        /// Largest norm of all gradients in the warm-up.
        lambda_absolute: f32,
        /// Weight of the old average.
        beta: f32,
        /// 1 - beta, rounded once.
        one_minus_beta: f32,
        /// Steps of the warm-up.
        warmup: u32,
    }
    buffers {
        /// (tensor_count) [`TensorNorm`](crate::kernels::TensorNorm), loss scale included.
        Read norms,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients.
        Write tensors,
        /// Steps taken in, whether one is pending; then (tensor_count, 2): average norms, and those
        /// of the step before. Advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

/// The most norms that [`ClipByPercentile`] can hold.
pub const LONGEST_HISTORY: u32 = 1024;

kernel! {
    /// AutoClip: clips to a percentile of the norms before (Seetharaman et al. 2020).
    pub ClipByPercentile = [
        STEP_STATE, WIDE, POLICY, wgsl!("../../../shaders/policy/clip_by_percentile.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByPercentileParams {
        /// Norms that are kept, at most [`LONGEST_HISTORY`].
        history: u32,
        /// The power of two at or above it.
        sorted: u32,
        /// The percentile, divided by 100.
        share: f32,
        /// Norms before the first clip, at least 1.
        warmup: u32,
    }
    buffers {
        /// Norms kept, where the next goes, whether one is pending, which; then (history) norms.
        /// Advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

device_struct! {
    /// A part of a tensor that [`ClipUnits`] clips by itself.
    ClipUnit {
        /// First quad in the flat buffer.
        offset: u32,
        /// Quads, padding included.
        quads: u32,
    }
}

kernel! {
    /// Adaptive gradient clipping: clips each unit by the norm of its weights (Brock et al. 2021).
    pub ClipUnits = [
        STEP_STATE, GRID, WIDE, LANES_64, REDUCE, WEIGHT_F32,
        wgsl!("../../../shaders/policy/clip_units.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.unit_count);
    uniform ClipUnitsParams {
        /// Rows of the table of units.
        unit_count: u32,
        /// Largest norm of a gradient, beside that of its weights.
        clipping: f32,
        /// Weights count as having this norm at least.
        eps: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState): the loss scale.
        Read state,
        /// (unit_count) [`ClipUnit`]
        Read units,
        /// Flat weights in quads, read only.
        Write weight,
        /// Flat gradient in quads, still scaled; clipped in place. A unit with a NaN, an Inf or
        /// the largest f32 is left alone.
        Write gradient,
    }
}
