//! Optimizers: one dispatch advances every tensor of a flat parameter buffer.
//!
//! Each reads what [`Verdict`](super::Verdict) left in the state, unscales and clips on the fly,
//! and writes nothing that is kept if the step is skipped. Padding stays zero.
//!
//! What a rule needs to know of a whole tensor before it moves a weight comes from passes in front:
//! one partial sum per chunk ([`Agreement`], [`SquaredRatio`], [`WeightSquares`],
//! [`AdafactorSquares`]), then [`TensorFactors`] makes one number per tensor of them.

use bytemuck::{Pod, Zeroable};

use super::shared::{
    ADAFACTOR_UPDATE, ADAM_MOMENTS, AGREES, CLIPPED, FACTORED, GRID, POWER, REDUCE, ROW, SCAN_FOLD,
    SCAN_PARTIAL, STEP_STATE, TENSOR_RANGE, WEIGHT_F32, WIDE,
};
use crate::kernel::{Declaration, Kernel, grid};
use crate::step::device_struct;
use crate::{kernel, wgsl};

device_struct! {
    /// Partial sums of one tensor, and where what they give belongs: a row of [`TensorFactors::ranges`]
    /// and [`MuonNorm::ranges`].
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

device_struct! {
    /// A part of a matrix of at most 64 rows by 64 quads: a row of [`AdafactorScan::tiles`].
    Tile {
        /// First quad in the flat buffer.
        offset: u32,
        /// Quads from one row to the next.
        row_quads: u32,
        /// Rows of the tile.
        rows: u32,
        /// Quads of each row of the tile.
        quads: u32,
        /// Where the sums of its rows go: the first f32, one per row.
        row_partials: u32,
        /// Where the sums of its columns go: the first f32, four per quad.
        column_partials: u32,
        /// Row of the tensor table.
        tensor: u32,
    }
}

device_struct! {
    /// Up to 8 quads of what Adafactor keeps of a matrix's rows or columns: a row of
    /// [`AdafactorFactors::blocks`].
    FactorBlock {
        /// First quad of sums.
        first: u32,
        /// Quads from one tile's sums to the next's.
        stride: u32,
        /// Tiles.
        count: u32,
        /// Quads, at most 8.
        quads: u32,
        /// First quad of the variances.
        target_quad: u32,
        /// Elements that each sum is over.
        elements: u32,
        /// Row of the tensor table.
        tensor: u32,
    }
}

device_struct! {
    /// A tensor as Adafactor sees it: a row of the tables `shapes`.
    FactoredTensor {
        /// First quad in the flat buffers.
        offset: u32,
        /// Quads of a row.
        row_quads: u32,
        /// Rows of each matrix; 0 for a vector.
        rows: u32,
        /// First quad of the rows' variances.
        variance_rows: u32,
        /// First quad of the columns' variances, or of a vector's.
        variance_cols: u32,
        /// In `factors`: the mean of the row variances, one per matrix.
        mean: u32,
        /// In `factors`: 1 / max(1, rms(u) / d).
        update_factor: u32,
        /// In `factors`: root mean square of the weights.
        weight_rms: u32,
    }
}

/// [`AdamwScaledParams::factor`]: none.
pub const FACTOR_NONE: u32 = 0;
/// [`AdamwScaledParams::factor`]: on the learning rate.
pub const FACTOR_LEARNING_RATE: u32 = 1;
/// [`AdamwScaledParams::factor`]: on the elements that agree in sign with the gradient.
pub const FACTOR_AGREEING: u32 = 2;

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

/// Rows of a [`Tile`].
pub const TILE_ROWS: u32 = 64;
/// Quads of a row of a [`Tile`].
pub const TILE_QUADS: u32 = 64;
/// Quads of a [`FactorBlock`].
pub const FACTOR_BLOCK_QUADS: u32 = 8;

kernel! {
    /// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    pub Adamw = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/adamw.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
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
        /// As the gradient, advanced.
        Write weight,
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Adam (Kingma and Ba, 2015) with L2 decay, as torch.optim.Adam.
    pub Adam = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/adam.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Factor of the weight in the gradient.
        weight_decay: f32,
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
        /// As the gradient, advanced.
        Write weight,
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Gradient descent with momentum, as torch.optim.SGD.
    pub Sgd = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/sgd.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform SgdParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the momentum buffer; 0 leaves that buffer alone.
        momentum: f32,
        /// 1 - dampening is the gradient's share in the momentum buffer after the first step.
        dampening: f32,
        /// 1 looks ahead by one momentum step, 0 does not.
        nesterov: u32,
        /// Factor of the weight in the gradient.
        weight_decay: f32,
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
        /// As the gradient, advanced.
        Write weight,
        /// As the gradient, advanced; its contents before the first applied step do not matter.
        /// Any buffer of one quad or more if momentum is 0.
        Write momentum_buffer,
    }
}

kernel! {
    /// AMSGrad (Reddi, Kale and Kumar, 2018) over AdamW or Adam, as PyTorch: the maximum is that of the
    /// uncorrected second moment.
    pub Amsgrad = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../shaders/amsgrad.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AmsgradParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// Factor of the weight in the gradient.
        l2_decay: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
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
        /// As the gradient, advanced.
        Write weight,
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
        /// Largest second moment so far, as the gradient, advanced.
        Write v_max,
    }
}

kernel! {
    /// AdamW with a factor per tensor: StableAdamW, cautious updates; and with cautious decay.
    pub AdamwScaled = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../shaders/adamw_scaled.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwScaledParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// [`FACTOR_NONE`], [`FACTOR_LEARNING_RATE`] or [`FACTOR_AGREEING`].
        factor: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Adam-atan2 (Everett et al., 2024), with decoupled weight decay.
    pub AdamAtan2 = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../shaders/adam_atan2.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamAtan2Params {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Factor on the angle.
        a: f32,
        /// Factor on the root of the second moment; greater than 0.
        b: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
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
        /// As the gradient, advanced.
        Write weight,
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Lion (Chen et al., 2023): the sign of a blend of momentum and gradient.
    pub Lion = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, AGREES,
        wgsl!("../../shaders/lion.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform LionParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Share of the momentum in the blend.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the momentum.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// 1 keeps only elements that agree in sign with the gradient, times the factor.
        cautious: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// Momentum, as the gradient, advanced.
        Write m,
    }
}

kernel! {
    /// In how many elements of each chunk the blend b1 m + (1-b1) g agrees in sign with g.
    pub Agreement = [
        STEP_STATE, GRID, CLIPPED, REDUCE, ROW, AGREES,
        wgsl!("../../shaders/agreement.wgsl"),
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
        STEP_STATE, GRID, CLIPPED, REDUCE, ROW,
        wgsl!("../../shaders/squared_ratio.wgsl"),
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
    /// How many elements of each chunk have a root of the corrected second moment of eps or more: the
    /// others move more slowly than their gradients ask.
    ///
    /// [`TensorFactors`] with [`RULE_COMPLEMENT`] makes of it the share of each tensor that is below.
    pub MomentStatistics = [
        STEP_STATE, GRID, REDUCE, ROW,
        wgsl!("../../shaders/moment_statistics.wgsl"),
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
        GRID, REDUCE, TENSOR_RANGE,
        wgsl!("../../shaders/tensor_factors.wgsl"),
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
        STEP_STATE, GRID, REDUCE, ROW, WEIGHT_F32,
        wgsl!("../../shaders/weight_squares.wgsl"),
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

kernel! {
    /// Sums of g^2 over rows and columns of each tile of the matrices.
    pub AdafactorScan = [
        STEP_STATE, GRID, CLIPPED, ROW,
        wgsl!("../../shaders/adafactor_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.tile_count);
    uniform AdafactorScanParams {
        /// Rows of `tiles`.
        tile_count: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (tile_count) [`Tile`]
        Read tiles,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Sums by row and by column, overwritten.
        Write partials,
    }
}

kernel! {
    /// Mean squares of rows and columns, advanced.
    pub AdafactorFactors = [
        STEP_STATE, GRID, CLIPPED, POWER, FACTORED,
        wgsl!("../../shaders/adafactor_factors.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.block_count);
    uniform AdafactorFactorsParams {
        /// Rows of `blocks`.
        block_count: u32,
        /// p in the share t^-p of step t in what is kept.
        decay_power: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (block_count) [`FactorBlock`]
        Read blocks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Sums of [`AdafactorScan`], in quads.
        Read partials,
        /// Mean squares of all rows and columns, advanced.
        Write variance,
    }
}

kernel! {
    /// Sum of u^2 of each chunk, u being Adafactor's update before it is bounded.
    pub AdafactorSquares = [
        STEP_STATE, GRID, CLIPPED, REDUCE, ROW, POWER, FACTORED, ADAFACTOR_UPDATE,
        wgsl!("../../shaders/adafactor_squares.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdafactorSquaresParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// p in the share t^-p of step t in what is kept.
        decay_power: f32,
        /// Bound on what updates are divided by.
        eps1: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) [`FactoredTensor`]
        Read shapes,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Mean squares: of rows and columns advanced, of vectors not yet.
        Read variance,
        /// Means of the row variances.
        Read factors,
        /// (chunk_count), overwritten.
        Write partials,
    }
}

kernel! {
    /// Adafactor (Shazeer and Stern, 2018), as torch.optim.Adafactor.
    pub Adafactor = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, POWER, FACTORED, ADAFACTOR_UPDATE,
        wgsl!("../../shaders/adafactor.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdafactorParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// p in the share t^-p of step t in what is kept.
        decay_power: f32,
        /// Bound on what updates are divided by.
        eps1: f32,
        /// The step is relative to the RMS of the weights, but to no less than this.
        eps2: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) [`FactoredTensor`]
        Read shapes,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// Mean squares; those of vectors are advanced.
        Write variance,
        /// Means of the row variances, factors on the updates, RMS of the weights.
        Read factors,
    }
}

kernel! {
    /// Momentum of matrices, and what is to be orthogonalised.
    pub MuonMomentum = [
        STEP_STATE, GRID, CLIPPED,
        wgsl!("../../shaders/muon_momentum.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonMomentumParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// First packed quad of these matrices.
        base: u32,
        /// Decay of the momentum.
        momentum: f32,
        /// 1 - momentum, rounded once.
        one_minus_momentum: f32,
        /// 1 looks ahead by one momentum step, 0 does not.
        nesterov: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Packed momentum, advanced.
        Write momentum_buffer,
        /// The matrices one after the other, overwritten or in a skipped step left alone.
        Write x,
    }
}

kernel! {
    /// Inverse Frobenius norm of each matrix, from the partials of a [`GradientScan`](super::GradientScan).
    pub MuonNorm = [
        STEP_STATE, GRID, WIDE, SCAN_PARTIAL, SCAN_FOLD, TENSOR_RANGE,
        wgsl!("../../shaders/muon_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.matrix_count);
    uniform MuonNormParams {
        /// Matrices.
        matrix_count: u32,
        /// The norm counts at least this much.
        eps: f32,
    }
    buffers {
        /// (matrix_count) [`TensorRange`], of which `first` and `count` are used.
        Read ranges,
        /// [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (matrix_count, 2), overwritten: the product of both is the inverse.
        Write inverse,
    }
}

kernel! {
    /// Divides each matrix by its Frobenius norm.
    pub MuonNormalize = [
        STEP_STATE, GRID,
        wgsl!("../../shaders/muon_normalize.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonNormalizeParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`](crate::step::Chunk) of the matrices, whose tensor is the matrix.
        Read chunks,
        /// (matrices, 2) of [`MuonNorm`].
        Read inverse,
        /// The matrices, in place.
        Write x,
    }
}

kernel! {
    /// y = a I + b G + c y for square matrices G and y = G².
    pub MuonPolynomial = [
        GRID, ROW,
        wgsl!("../../shaders/muon_polynomial.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform MuonPolynomialParams {
        /// Quads of all matrices.
        quads: u32,
        /// Rows and columns of each.
        size: u32,
        /// Factor of the identity.
        a: f32,
        /// Factor of G.
        b: f32,
        /// Factor of G².
        c: f32,
    }
    buffers {
        /// (matrices, size, size)
        Read gram,
        /// (matrices, size, size), overwritten.
        Write y,
    }
}

kernel! {
    /// Moves matrices by their orthogonalised momentum (Jordan et al., 2024).
    pub Muon = [
        STEP_STATE, GRID, WEIGHT_F32,
        wgsl!("../../shaders/muon.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// First packed quad of these matrices.
        base: u32,
        /// Factor on the update, for the shape of these matrices.
        scale: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// The orthogonalised matrices one after the other.
        Read x,
        /// As the gradient, advanced.
        Write weight,
    }
}

kernel! {
    /// AdamW for some of the tensors, with moments that lie packed.
    pub AdamwPacked = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS,
        wgsl!("../../shaders/adamw_packed.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwPackedParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// Factor on the learning rate of the step.
        learning_rate_factor: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// First moment, packed, advanced.
        Write m,
        /// Second moment, packed, advanced.
        Write v,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Adamw::DECLARATION,
    Adam::DECLARATION,
    Sgd::DECLARATION,
    Amsgrad::DECLARATION,
    AdamwScaled::DECLARATION,
    AdamAtan2::DECLARATION,
    Lion::DECLARATION,
    Agreement::DECLARATION,
    SquaredRatio::DECLARATION,
    MomentStatistics::DECLARATION,
    TensorFactors::DECLARATION,
    WeightSquares::DECLARATION,
    AdafactorScan::DECLARATION,
    AdafactorFactors::DECLARATION,
    AdafactorSquares::DECLARATION,
    Adafactor::DECLARATION,
    MuonMomentum::DECLARATION,
    MuonNorm::DECLARATION,
    MuonNormalize::DECLARATION,
    MuonPolynomial::DECLARATION,
    Muon::DECLARATION,
    AdamwPacked::DECLARATION,
];
