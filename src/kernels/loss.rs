//! Losses over rows, and their means. Cross-entropy follows PyTorch's `cross_entropy` in its
//! treatment of `ignore_index` and label smoothing, but gives 0 where every row is ignored.
//! Softmax is never stored: the backward pass makes it again from two numbers per row.

use crate::kernel::shared::{
    EXP_LOG, GRID, LANES_64, LOG_SUM_EXP, NUMERICS, QUAD_F32, REDUCE, REDUCE_VEC4, ROW,
    ROW_LANES_64,
};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

/// The target of a position that counts neither in the loss nor in its gradient.
pub const IGNORE: u32 = u32::MAX;

kernel! {
    /// `loss[r] = (1 - e) nll + e mean_c(-log p) + z_loss lse²`, e being the label smoothing.
    /// Ignored rows give 0. A target that is neither a class nor `ignore_index`, a NaN or a +Inf
    /// logit makes its row NaN, here and in the gradient, so that the step is refused.
    pub CrossEntropy = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, REDUCE_VEC4, NUMERICS, EXP_LOG, LOG_SUM_EXP,
        wgsl!("../../shaders/loss/cross_entropy.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform CrossEntropyParams {
        /// Rows.
        rows: u32,
        /// Quads in a stored row of logits.
        row_quads: u32,
        /// Columns that are classes; the rest is padding of any content.
        classes: u32,
        /// Target of rows that do not count.
        ignore_index: u32,
        /// Share of the target spread evenly over all classes.
        label_smoothing: f32,
        /// Factor of lse² in a row's loss.
        z_loss: f32,
    }
    buffers {
        /// (rows, 4 row_quads)
        Read logits,
        /// (rows): below `classes`, or `ignore_index`.
        Read targets,
        /// (rows), overwritten.
        Write loss,
        /// (rows): largest logit, and log-sum-exp less it,
        /// overwritten; (0, 0) in ignored rows.
        Write statistics,
    }
}

kernel! {
    /// counts = [targets that count, 1], or counts += that: run over all microbatches of a step, it
    /// gives the targets of the step and the number of its microbatches. Exact up to 2^32 - 1
    /// targets, and that for more.
    pub CountTargets = [LANES_64, REDUCE, wgsl!("../../shaders/loss/count_targets.wgsl")];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform CountTargetsParams {
        /// Rows.
        rows: u32,
        /// Target of rows that do not count.
        ignore_index: u32,
        /// 1 adds to what the step's microbatches before left, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (rows)
        Read targets,
        /// (2), overwritten or added to.
        Write counts,
    }
}

kernel! {
    /// `mean = [sum_r loss[r] / N M, M / N]` for the N targets that count in a step of M
    /// microbatches, zeros where N is 0. So the mean over microbatches is the sum over all rows of
    /// the step, divided by N once, however unevenly they are spread.
    pub CrossEntropyMean = [LANES_64, REDUCE, wgsl!("../../shaders/loss/cross_entropy_mean.wgsl")];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform CrossEntropyMeanParams {
        /// Rows.
        rows: u32,
    }
    buffers {
        /// (rows): 0 in rows that do not count.
        Read loss,
        /// (2): output of [`CountTargets`].
        Read counts,
        /// (2), overwritten.
        Write mean,
    }
}

kernel! {
    /// dlogits = upstream M / N (p (1 + 2 z_loss lse) - target distribution), exact zeros in ignored
    /// rows and beyond `classes`.
    pub CrossEntropyBackward = [
        QUAD_F32, GRID, ROW, NUMERICS, EXP_LOG,
        wgsl!("../../shaders/loss/cross_entropy_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.row_quads).div_ceil(64));
    uniform CrossEntropyBackwardParams {
        /// Rows.
        rows: u32,
        /// Quads in a stored row of logits.
        row_quads: u32,
        /// Columns that are classes; the rest is padding of any content.
        classes: u32,
        /// Target of rows that do not count.
        ignore_index: u32,
        /// Share of the target spread evenly over all classes.
        label_smoothing: f32,
        /// Factor of lse² in a row's loss.
        z_loss: f32,
    }
    buffers {
        /// (rows, 4 row_quads)
        Read logits,
        /// (rows): below `classes`, or `ignore_index`.
        Read targets,
        /// (rows): largest logit, and log-sum-exp less it.
        Read statistics,
        /// (2): output of [`CrossEntropyMean`].
        Read mean,
        /// (1): gradient of the mean.
        Read upstream,
        /// (rows, 4 row_quads), overwritten.
        Write dlogits,
    }
}

kernel! {
    /// `correct[r]` = 1 where the first largest logit is at the target, else 0; 0 in ignored rows.
    pub CountCorrect = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE,
        wgsl!("../../shaders/loss/count_correct.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform CountCorrectParams {
        /// Rows.
        rows: u32,
        /// Quads in a stored row of logits.
        row_quads: u32,
        /// Columns that are classes; the rest is padding of any content.
        classes: u32,
        /// Target of rows that do not count.
        ignore_index: u32,
    }
    buffers {
        /// (rows, 4 row_quads)
        Read logits,
        /// (rows): below `classes`, or `ignore_index`.
        Read targets,
        /// (rows), overwritten.
        Write correct,
    }
}

kernel! {
    /// `loss[r] = mean_c (prediction - expected)²`. [`RowMean`](super::RowMean) makes the mean over
    /// all elements of it.
    pub MeanSquaredError = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE,
        wgsl!("../../shaders/loss/mean_squared_error.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform MeanSquaredErrorParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
    }
    buffers {
        /// (rows, cols)
        Read prediction,
        /// (rows, cols)
        Read expected,
        /// (rows), overwritten.
        Write loss,
    }
}

kernel! {
    /// dprediction = upstream 2 / (rows cols) (prediction - expected).
    pub MeanSquaredErrorBackward = [
        QUAD_F32, GRID, ROW,
        wgsl!("../../shaders/loss/mean_squared_error_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.cols.div_ceil(4)).div_ceil(64));
    uniform MeanSquaredErrorBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
    }
    buffers {
        /// (rows, cols)
        Read prediction,
        /// (rows, cols)
        Read expected,
        /// (1): gradient of the mean.
        Read upstream,
        /// (rows, cols), overwritten.
        Write dprediction,
    }
}

kernel! {
    /// mean = factor loss, or mean += factor loss: over the microbatches of a step, its loss. A NaN
    /// or Inf of any of them stays, with its bits, whatever the others are.
    pub LossMean = [NUMERICS, wgsl!("../../shaders/loss/loss_mean.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform LossMeanParams {
        /// 1 / microbatches.
        factor: f32,
        /// 0 overwrites the mean, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// f32 (1)
        Read loss,
        /// f32 (1), overwritten or added to.
        Write mean,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    CrossEntropy::DECLARATION,
    CountTargets::DECLARATION,
    CrossEntropyMean::DECLARATION,
    CrossEntropyBackward::DECLARATION,
    CountCorrect::DECLARATION,
    MeanSquaredError::DECLARATION,
    MeanSquaredErrorBackward::DECLARATION,
    LossMean::DECLARATION,
];
