//! What an optimizer needs to know of a whole tensor: partial sums per chunk, and what they give.

use bytemuck::{Pod, Zeroable};

use crate::kernel::grid;
use crate::kernel::shared::{
    AGREES, CLIPPED, GRID, LANES_64, REDUCE, ROW, STEP_STATE, TENSOR_RANGE, WEIGHT_F32,
};
use crate::step::device_struct;
use crate::{kernel, wgsl};

device_struct! {
    /// Partial sums of one tensor, and where what they give belongs: a row of
    /// [`TensorFactors::ranges`] and [`MuonNorm::ranges`](crate::kernels::MuonNorm::ranges).
    TensorRange {
        /// First partial.
        first: u32,
        /// Number of partials.
        count: u32,
        /// Elements that the partials are sums over, without padding.
        elements: u32,
        /// Index of the result.
        target_index: u32,
    }
}

/// [`TensorFactorsParams::rule`]: the mean.
pub const RULE_MEAN: u32 = 0;

/// [`TensorFactorsParams::rule`]: the root of the mean.
pub const RULE_ROOT_MEAN: u32 = 1;

/// [`TensorFactorsParams::rule`]: 1 / max(mean, bound).
pub const RULE_INVERSE_AT_LEAST: u32 = 2;

/// [`TensorFactorsParams::rule`]: 1 / max(1, sqrt(mean) / bound).
pub const RULE_INVERSE_ROOT_ABOVE: u32 = 3;

/// [`TensorFactorsParams::rule`]: 1 - mean.
pub const RULE_COMPLEMENT: u32 = 4;

kernel! {
    /// In how many elements of each chunk the blend b1 m + (1-b1) g agrees in sign with g.
    pub Agreement = [
        STEP_STATE, GRID, CLIPPED, LANES_64, REDUCE, ROW, AGREES,
        wgsl!("../../../shaders/optimizer/agreement.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AgreementParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// First moment before this step, as the gradient.
        Read m,
        /// (chunk_count), overwritten.
        Write partials,
    }
}

kernel! {
    /// Sum of g^2 / max(v_hat, eps^2) of each chunk, v_hat with this gradient in it.
    pub SquaredRatio = [
        STEP_STATE, GRID, CLIPPED, LANES_64, REDUCE, ROW,
        wgsl!("../../../shaders/optimizer/squared_ratio.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform SquaredRatioParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Bound on the root of the second moment.
        eps: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Second moment before this step, as the gradient.
        Read v,
        /// (chunk_count), overwritten.
        Write partials,
    }
}

kernel! {
    /// How many elements of each chunk have a root of the corrected second moment of eps or more:
    /// the others move more slowly than their gradients ask.
    ///
    /// [`TensorFactors`] with [`RULE_COMPLEMENT`] makes of it the share of each tensor that is
    /// below.
    pub MomentStatistics = [
        STEP_STATE, GRID, LANES_64, REDUCE, ROW,
        wgsl!("../../../shaders/optimizer/moment_statistics.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MomentStatisticsParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// The eps of the optimizer.
        eps: f32,
    }
    buffers {
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat second moment in quads.
        Read v,
        /// (chunk_count), overwritten.
        Write partials,
    }
}

kernel! {
    /// One number per tensor, from the mean of its partial sums.
    pub TensorFactors = [
        GRID, LANES_64, REDUCE, TENSOR_RANGE,
        wgsl!("../../../shaders/optimizer/tensor_factors.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.range_count);
    uniform TensorFactorsParams {
        /// Rows of `ranges`.
        range_count: u32,
        /// [`RULE_MEAN`] or another of its kind.
        rule: u32,
        /// Used by some rules.
        bound: f32,
    }
    buffers {
        /// (range_count) [`TensorRange`]
        Read ranges,
        /// Partial sums.
        Read partials,
        /// Overwritten at the target of each range.
        Write factors,
    }
}

kernel! {
    /// Sum of w^2 of each chunk; a weight counts at most 1e14.
    pub WeightSquares = [
        STEP_STATE, GRID, LANES_64, REDUCE, ROW, WEIGHT_F32,
        wgsl!("../../../shaders/optimizer/weight_squares.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform WeightSquaresParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// Flat weights; read only.
        Write weight,
        /// (chunk_count), overwritten.
        Write partials,
    }
}
