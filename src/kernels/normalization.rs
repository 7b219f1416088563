//! Layer, RMS and batch normalization. Statistics are f32 and two-pass: the mean, then the sum of
//! centred squares; the mean of x² less mean² would lose a small variance beside a large mean. The
//! mean is kept as (shift + rest) / scale, so that the backward pass keeps the digits of x - mean
//! too. scale is 1, or a power of two where squares would leave f32; std is that of x scale.
//! A row or feature with a NaN or Inf is all NaN. Parameter gradients of the row norms come as
//! partial sums per block of rows, which [`ColumnSum`](super::ColumnSum) folds.

use super::reduce::column_tiles;
use crate::kernel::shared::{
    CENTRED, COLUMN_TILE, GRID, QUAD_F32, RANGE, REDUCE, REDUCE_VEC4, ROW, ROW_LANES_64,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::{kernel, wgsl};

/// `row_scale` of the kernel's `row_values`; wants [`RANGE`], [`REDUCE`] and [`ROW_LANES_64`].
pub const ROW_SCALE: Fragment = wgsl!("../../shaders/normalization/shared/row_scale.wgsl");
/// `row_moments` of the kernel's `row_values`; wants [`ROW`], [`CENTRED`] and [`ROW_SCALE`].
pub const ROW_MOMENTS: Fragment = wgsl!("../../shaders/normalization/shared/row_moments.wgsl");
/// `row_rstd` of the kernel's `row_values`; wants [`ROW`] and [`ROW_SCALE`].
pub const ROW_MEAN_SQUARE: Fragment =
    wgsl!("../../shaders/normalization/shared/row_mean_square.wgsl");
/// `batch_moments`, `deviations`: how BatchNorm normalizes a quad of features; wants [`CENTRED`].
pub const FEATURE_MOMENTS: Fragment =
    wgsl!("../../shaders/normalization/shared/feature_moments.wgsl");

kernel! {
    /// y = (x - mean) / sqrt(variance + eps) * weight + bias over each row.
    pub LayerNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, CENTRED, ROW_SCALE, ROW_MOMENTS,
        wgsl!("../../shaders/normalization/layer_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform LayerNormParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Added to the variance; positive, so that a constant row has a finite 1 / std.
        eps: f32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (cols)
        Read weight,
        /// (cols)
        Read bias,
        /// (rows, cols), overwritten.
        Write y,
        /// (rows, 4): shift, rest, 1 / std, scale, overwritten.
        Write statistics,
    }
}

kernel! {
    /// sum = x + residual; y = layer norm of the sum.
    pub ResidualLayerNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, CENTRED, ROW_SCALE, ROW_MOMENTS,
        wgsl!("../../shaders/normalization/residual_layer_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform ResidualLayerNormParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Added to the variance; positive, so that a constant row has a finite 1 / std.
        eps: f32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows, cols)
        Read residual,
        /// (cols)
        Read weight,
        /// (cols)
        Read bias,
        /// (rows, cols), overwritten.
        Write sum,
        /// (rows, cols), overwritten.
        Write y,
        /// (rows, 4): shift, rest, 1 / std, scale, overwritten.
        Write statistics,
    }
}

kernel! {
    /// dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat)), plus `residual_gradient` if asked.
    /// Serves [`ResidualLayerNorm`] too, with its sum as x.
    pub LayerNormBackward = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE_VEC4, CENTRED,
        wgsl!("../../shaders/normalization/layer_norm_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform LayerNormBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// 1 adds `residual_gradient`, 0 does not read it.
        add_residual: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (cols)
        Read weight,
        /// (rows, cols): gradient of y.
        Read dy,
        /// (rows, 4): what the forward pass left.
        Read statistics,
        /// (rows, cols): further gradient of x, of the residual path.
        /// Any buffer where `add_residual` is 0.
        Read residual_gradient,
        /// (rows, cols), overwritten.
        Write x_gradient,
    }
}

kernel! {
    /// Sums of dy xhat and of dy over blocks of rows.
    pub LayerNormParameterPartials = [
        QUAD_F32, GRID, ROW, COLUMN_TILE, CENTRED,
        wgsl!("../../shaders/normalization/layer_norm_parameter_partials.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.cols.div_ceil(4)) * params.blocks);
    uniform LayerNormParameterPartialsParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Rows per block; see [`row_blocks`](super::row_blocks).
        rows_per_block: u32,
        /// Blocks of rows.
        blocks: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows, cols): gradient of y.
        Read dy,
        /// (rows, 4): what the forward pass left.
        Read statistics,
        /// (blocks, cols), overwritten.
        Write weight_partials,
        /// (blocks, cols), overwritten.
        Write bias_partials,
    }
}

kernel! {
    /// y = x / sqrt(mean(x²) + eps) * weight over each row.
    pub RmsNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, ROW_SCALE, ROW_MEAN_SQUARE,
        wgsl!("../../shaders/normalization/rms_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform RmsNormParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Added to the mean square; positive, so that a row of zeros has a finite 1 / std.
        eps: f32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (cols)
        Read weight,
        /// (rows, cols), overwritten.
        Write y,
        /// (rows, 2): 1 / std, scale, overwritten.
        Write statistics,
    }
}

kernel! {
    /// sum = x + residual; y = RMS norm of the sum.
    pub ResidualRmsNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, ROW_SCALE, ROW_MEAN_SQUARE,
        wgsl!("../../shaders/normalization/residual_rms_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform ResidualRmsNormParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Added to the mean square; positive, so that a row of zeros has a finite 1 / std.
        eps: f32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows, cols)
        Read residual,
        /// (cols)
        Read weight,
        /// (rows, cols), overwritten.
        Write sum,
        /// (rows, cols), overwritten.
        Write y,
        /// (rows, 2): 1 / std, scale, overwritten.
        Write statistics,
    }
}

kernel! {
    /// dx = rstd (w dy - xhat mean(w dy xhat)), plus `residual_gradient` if asked. Serves
    /// [`ResidualRmsNorm`] too, with its sum as x.
    pub RmsNormBackward = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE,
        wgsl!("../../shaders/normalization/rms_norm_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform RmsNormBackwardParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// 1 adds `residual_gradient`, 0 does not read it.
        add_residual: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (cols)
        Read weight,
        /// (rows, cols): gradient of y.
        Read dy,
        /// (rows, 2): what the forward pass left.
        Read statistics,
        /// (rows, cols): further gradient of x, of the residual path.
        /// Any buffer where `add_residual` is 0.
        Read residual_gradient,
        /// (rows, cols), overwritten.
        Write x_gradient,
    }
}

kernel! {
    /// Sums of dy xhat over blocks of rows.
    pub RmsNormParameterPartials = [
        QUAD_F32, GRID, ROW, COLUMN_TILE,
        wgsl!("../../shaders/normalization/rms_norm_parameter_partials.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.cols.div_ceil(4)) * params.blocks);
    uniform RmsNormParameterPartialsParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Rows per block; see [`row_blocks`](super::row_blocks).
        rows_per_block: u32,
        /// Blocks of rows.
        blocks: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (rows, cols): gradient of y.
        Read dy,
        /// (rows, 2): what the forward pass left.
        Read statistics,
        /// (blocks, cols), overwritten.
        Write weight_partials,
    }
}

kernel! {
    /// Mean and biased variance of every feature over the rows.
    pub BatchNormStatistics = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, REDUCE_VEC4, RANGE, CENTRED,
        wgsl!("../../shaders/normalization/batch_norm_statistics.wgsl"),
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
        QUAD_F32, GRID, ROW, CENTRED, FEATURE_MOMENTS, wgsl!("../../shaders/normalization/batch_norm.wgsl"),
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
        wgsl!("../../shaders/normalization/batch_norm_backward.wgsl"),
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
    pub BatchNormRunning = [GRID, ROW, wgsl!("../../shaders/normalization/batch_norm_running.wgsl")];
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

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    LayerNorm::DECLARATION,
    ResidualLayerNorm::DECLARATION,
    LayerNormBackward::DECLARATION,
    LayerNormParameterPartials::DECLARATION,
    RmsNorm::DECLARATION,
    ResidualRmsNorm::DECLARATION,
    RmsNormBackward::DECLARATION,
    RmsNormParameterPartials::DECLARATION,
    BatchNormStatistics::DECLARATION,
    BatchNorm::DECLARATION,
    BatchNormBackward::DECLARATION,
    BatchNormRunning::DECLARATION,
];
