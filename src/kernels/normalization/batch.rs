//! Batch normalization, over each feature.

use crate::kernel::shared::{
    CENTRED, GRID, QUAD_F32, RANGE, REDUCE, REDUCE_VEC4, ROW, ROW_LANES_64,
};
use crate::kernel::{Fragment, grid};
use crate::{kernel, wgsl};

/// `batch_moments`, `deviations`: how BatchNorm normalizes a quad of features; wants [`CENTRED`].
pub const FEATURE_MOMENTS: Fragment =
    wgsl!("../../../shaders/normalization/shared/feature_moments.wgsl");

kernel! {
    /// Mean and biased variance of every feature over the rows.
    pub BatchNormStatistics = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, REDUCE_VEC4, RANGE, CENTRED,
        wgsl!("../../../shaders/normalization/batch_norm_statistics.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.features.div_ceil(4));
    uniform BatchNormStatisticsParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        features: u32,
    }
    buffers {
        /// (rows, features)
        Read x,
        /// (4, features): shifts, rests, variances, scales, overwritten.
        Write statistics,
    }
}

kernel! {
    /// y = (x - mean) / sqrt(variance + eps) * weight + bias for every feature, with the statistics
    /// of the batch in training and the running ones in evaluation.
    pub BatchNorm = [
        QUAD_F32, GRID, ROW, CENTRED, FEATURE_MOMENTS,
        wgsl!("../../../shaders/normalization/batch_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.features.div_ceil(4)).div_ceil(64));
    uniform BatchNormParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        features: u32,
        /// Added to the variance; positive, so that a constant row has a finite 1 / std.
        eps: f32,
        /// 0 takes statistics of a batch, 1 given means and variances.
        given: u32,
    }
    buffers {
        /// (rows, features)
        Read x,
        /// (4, features) of [`BatchNormStatistics`], or given (2, features): means, variances.
        Read statistics,
        /// (features)
        Read weight,
        /// (features)
        Read bias,
        /// (rows, features), overwritten.
        Write y,
    }
}

kernel! {
    /// Gradients of [`BatchNorm`] over [`BatchNormStatistics`] of the same x.
    pub BatchNormBackward = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE_VEC4, CENTRED, FEATURE_MOMENTS,
        wgsl!("../../../shaders/normalization/batch_norm_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.features.div_ceil(4));
    uniform BatchNormBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        features: u32,
        /// Added to the variance; positive, so that a constant row has a finite 1 / std.
        eps: f32,
        /// 1 adds to what is there, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (rows, features)
        Read x,
        /// (rows, features): gradient of y.
        Read dy,
        /// (4, features): output of [`BatchNormStatistics`].
        Read statistics,
        /// (features)
        Read weight,
        /// (rows, features), overwritten.
        Write x_gradient,
        /// (features), overwritten or added to, as `accumulate` says.
        Write dweight,
        /// (features), overwritten or added to, as `accumulate` says.
        Write dbias,
    }
}

kernel! {
    /// staged = (1 - momentum) previous + momentum batch, the variances made unbiased. They are
    /// staged first, so that a skipped step moves nothing. Inf counts as the largest variance.
    pub BatchNormRunning = [
        GRID, ROW, CENTRED,
        wgsl!("../../../shaders/normalization/batch_norm_running.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((2 * params.features.div_ceil(4)).div_ceil(64));
    uniform BatchNormRunningParams {
        /// Elements in a row, without padding.
        features: u32,
        /// Rows.
        rows: u32,
        /// Weight of the batch, 0.1 by convention.
        momentum: f32,
        /// 1 continues from `staged`, 0 starts from `base`.
        from_staged: u32,
    }
    buffers {
        /// (4, features): output of [`BatchNormStatistics`].
        Read batch,
        /// (2, features): the committed running statistics.
        Read base,
        /// (2, features), overwritten.
        Write staged,
    }
}
