//! Layer and RMS normalization, over each row.

use crate::kernel::shared::{
    CENTRED, COLUMN_TILE, GRID, OFFSET_WEIGHT, QUAD_F32, RANGE, REDUCE, REDUCE_VEC4, ROW,
    ROW_LANES_64, WEIGHT_ROWS,
};
use crate::kernel::{Fragment, grid};
use crate::kernels::reduce::column_tiles;
use crate::{kernel, wgsl};

/// `row_scale` of the kernel's `row_values`; wants [`RANGE`], [`REDUCE`] and [`ROW_LANES_64`].
pub const ROW_SCALE: Fragment = wgsl!("../../../shaders/normalization/shared/row_scale.wgsl");
/// `row_moments` of the kernel's `row_values`; wants [`ROW`], [`CENTRED`] and [`ROW_SCALE`].
pub const ROW_MOMENTS: Fragment = wgsl!("../../../shaders/normalization/shared/row_moments.wgsl");
/// `row_rstd` of the kernel's `row_values`; wants [`ROW`] and [`ROW_SCALE`].
pub const ROW_MEAN_SQUARE: Fragment =
    wgsl!("../../../shaders/normalization/shared/row_mean_square.wgsl");

kernel! {
    /// y = (x - mean) / sqrt(variance + eps) * weight + bias over each row.
    pub LayerNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, CENTRED, ROW_SCALE, ROW_MOMENTS,
        wgsl!("../../../shaders/normalization/layer_norm.wgsl"),
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
        wgsl!("../../../shaders/normalization/residual_layer_norm.wgsl"),
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
        wgsl!("../../../shaders/normalization/layer_norm_backward.wgsl"),
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
        wgsl!("../../../shaders/normalization/layer_norm_parameter_partials.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.cols.div_ceil(4)) * params.blocks);
    uniform LayerNormParameterPartialsParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Rows per block; see [`row_blocks`](crate::kernels::row_blocks).
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
    /// y = x / sqrt(mean(x²) + eps) * (weight_offset + weight) over each row.
    pub RmsNorm = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, ROW_SCALE, ROW_MEAN_SQUARE, OFFSET_WEIGHT,
        wgsl!("../../../shaders/normalization/rms_norm.wgsl"),
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
        /// Added to the weights: 0, or 1 where they are stored as what they differ from 1 by.
        weight_offset: f32,
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
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, RANGE, ROW_SCALE, ROW_MEAN_SQUARE, OFFSET_WEIGHT,
        wgsl!("../../../shaders/normalization/residual_rms_norm.wgsl"),
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
        /// Added to the weights: 0, or 1 where they are stored as what they differ from 1 by.
        weight_offset: f32,
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
    /// dx = rstd (w dy - xhat mean(w dy xhat)) with w = weight_offset + weight, plus
    /// `residual_gradient` if asked. Serves [`ResidualRmsNorm`] too, with its sum as x.
    pub RmsNormBackward = [
        QUAD_F32, GRID, ROW, ROW_LANES_64, REDUCE, OFFSET_WEIGHT,
        wgsl!("../../../shaders/normalization/rms_norm_backward.wgsl"),
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
        /// As in the forward pass.
        weight_offset: f32,
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
        wgsl!("../../../shaders/normalization/rms_norm_parameter_partials.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.cols.div_ceil(4)) * params.blocks);
    uniform RmsNormParameterPartialsParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Rows per block; see [`row_blocks`](crate::kernels::row_blocks).
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
    /// Euclidean norms of rows, or of those of a sum: what DoRA divides by. Rows whose squares leave
    /// f32 are scaled by a power of two; a row with a NaN or Inf gives NaN.
    pub RowNorms = [
        GRID, ROW, ROW_LANES_64, REDUCE, RANGE, ROW_SCALE, ROW_MEAN_SQUARE, WEIGHT_ROWS,
        wgsl!("../../../shaders/normalization/row_norms.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform RowNormsParams {
        /// Rows whose norms are taken.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Where the norm of the first of them goes.
        first: u32,
        /// Rows of `w`.
        w_rows: u32,
        /// Which row of `w` the first of them is.
        w_first_row: u32,
        /// 1 adds `delta` first.
        has_delta: u32,
    }
    buffers {
        /// f32 (w_rows, cols), or in [blocks](crate::kernel::Variant::blocks)
        Read w,
        /// f32 (rows, cols); any buffer where `has_delta` is 0.
        Read delta,
        /// (.., rows): `rows` of them from `first` on are overwritten.
        Write norms,
    }
}
