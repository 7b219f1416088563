//! Softmax and log-sum-exp over rows. The row's largest element is subtracted, so nothing
//! overflows; a row without valid columns gives zeros, not NaN; NaN or +Inf in a valid column
//! makes the whole row NaN, so that a bad activation cannot hide behind a maximum. -Inf counts
//! as probability 0, but prefer `lengths` or the lowest f32: WGSL promises nothing about Inf.

use crate::kernel::shared::{
    EXP_LOG, GRID, LOG_SUM_EXP, NUMERICS, QUAD_F32, REDUCE, REDUCE_VEC4, ROW, ROW_LANES_64,
};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

/// What [`LogSumExp`] gives for a row without valid columns: stands for log(0), yet is finite, and
/// no row has less.
pub const EMPTY_LOG_SUM_EXP: f32 = f32::MIN;

kernel! {
    /// y = softmax(x) over the valid columns of each row, 0 in the others and in empty rows.
    pub Softmax = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, REDUCE_VEC4, NUMERICS, EXP_LOG, LOG_SUM_EXP,
        wgsl!("../../shaders/softmax/softmax.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform SoftmaxParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Columns from this one on are masked in every row; `cols` masks none.
        valid_cols: u32,
        /// 1 also masks by `lengths`, 0 does not read them.
        use_lengths: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows): valid columns of each row. Any buffer where `use_lengths` is 0.
        Read lengths,
        /// (rows, cols), overwritten.
        Write y,
    }
}

kernel! {
    /// dx = y (dy - sum_c dy y): the gradient of [`Softmax`], masked columns included.
    pub SoftmaxBackward = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE,
        wgsl!("../../shaders/softmax/softmax_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform SoftmaxBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
    }
    buffers {
        /// (rows, cols): output of [`Softmax`].
        Read y,
        /// (rows, cols): gradient of y.
        Read dy,
        /// (rows, cols), overwritten.
        Write x_gradient,
    }
}

kernel! {
    /// `y[r] = log(sum_c exp(x[r, c]))` over the valid columns, [`EMPTY_LOG_SUM_EXP`] where there
    /// are none.
    pub LogSumExp = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, REDUCE_VEC4, NUMERICS, EXP_LOG, LOG_SUM_EXP,
        wgsl!("../../shaders/softmax/log_sum_exp.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform LogSumExpParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Columns from this one on are masked in every row; `cols` masks none.
        valid_cols: u32,
        /// 1 also masks by `lengths`, 0 does not read them.
        use_lengths: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows): valid columns of each row. Any buffer where `use_lengths` is 0.
        Read lengths,
        /// (rows), overwritten.
        Write y,
        /// (rows, 2), overwritten: the largest valid element, and y less it.
        Write statistics,
    }
}

kernel! {
    /// `dx[r, c] = upstream[r] exp(x[r, c] - y[r])` in valid columns, 0 in the others.
    pub LogSumExpBackward = [
        QUAD_F32, GRID, ROW, NUMERICS, EXP_LOG,
        wgsl!("../../shaders/softmax/log_sum_exp_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.cols.div_ceil(4)).div_ceil(64));
    uniform LogSumExpBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Columns from this one on are masked in every row; `cols` masks none.
        valid_cols: u32,
        /// 1 also masks by `lengths`, 0 does not read them.
        use_lengths: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows): valid columns of each row. Any buffer where `use_lengths` is 0.
        Read lengths,
        /// (rows, 2): what [`LogSumExp`] left. Not y, which lacks the digits beside a large element.
        Read statistics,
        /// (rows): gradient of y.
        Read upstream,
        /// (rows, cols), overwritten.
        Write x_gradient,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Softmax::DECLARATION,
    SoftmaxBackward::DECLARATION,
    LogSumExp::DECLARATION,
    LogSumExpBackward::DECLARATION,
];
