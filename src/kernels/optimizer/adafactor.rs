//! Adafactor (Shazeer and Stern, 2018): second moments of matrices by row and column.

use bytemuck::{Pod, Zeroable};

use crate::kernel::grid;
use crate::kernel::shared::{
    ADAFACTOR_UPDATE, CLIPPED, FACTORED, GRID, LANES_64, POWER, REDUCE, ROW, STEP_STATE,
};
use crate::step::device_struct;
use crate::{kernel, update_rule, wgsl};

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

/// Rows of a [`Tile`].
pub const TILE_ROWS: u32 = 64;

/// Quads of a row of a [`Tile`].
pub const TILE_QUADS: u32 = 64;

/// Quads of a [`FactorBlock`].
pub const FACTOR_BLOCK_QUADS: u32 = 8;

kernel! {
    /// Sums of g^2 over rows and columns of each tile of the matrices.
    pub AdafactorScan = [
        STEP_STATE, GRID, CLIPPED, ROW,
        wgsl!("../../../shaders/optimizer/adafactor_scan.wgsl"),
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
        wgsl!("../../../shaders/optimizer/adafactor_factors.wgsl"),
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
        STEP_STATE, GRID, CLIPPED, LANES_64, REDUCE, ROW, POWER, FACTORED, ADAFACTOR_UPDATE,
        wgsl!("../../../shaders/optimizer/adafactor_squares.wgsl"),
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

update_rule! {
    /// Adafactor (Shazeer and Stern, 2018), as torch.optim.Adafactor.
    pub Adafactor = [
        POWER, FACTORED, ADAFACTOR_UPDATE,
        wgsl!("../../../shaders/optimizer/adafactor.wgsl"),
    ];
    uniform AdafactorParams {
        /// p in the share t^-p of step t in what is kept.
        decay_power: f32,
        /// Bound on what updates are divided by.
        eps1: f32,
        /// The step is relative to the RMS of the weights, but to no less than this.
        eps2: f32,
    }
    buffers {
        /// Mean squares; those of vectors are advanced.
        Write variance,
        /// (tensors) [`FactoredTensor`]
        Read shapes,
        /// Means of the row variances, factors on the updates, RMS of the weights.
        Read factors,
    }
}
