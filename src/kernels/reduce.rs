//! Sums over rows and over columns. A bias gradient is [`ColumnPartials`] followed by
//! [`ColumnSum`], or [`ColumnSums`] of four at once: two stages in fixed order, since WGSL has no float atomics and they would not
//! be deterministic.

use crate::kernel::shared::{COLUMN_TILE, GRID, LANES_64, QUAD_F32, REDUCE, STEP_STATE, WIDE};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

/// Workgroups that cover a row of quads, in tiles as `shared/column_tile.wgsl` cuts them.
pub(crate) const fn column_tiles(col_quads: u32) -> u32 {
    let width = if col_quads > 8 { 16 } else { col_quads.next_power_of_two() };
    col_quads.div_ceil(width)
}

/// `(rows_per_block, blocks)` for the kernels that leave partial sums per block of rows: at most
/// 128 blocks, which keep a GPU busy yet leave [`ColumnSum`] little to do.
pub const fn row_blocks(rows: u32) -> (u32, u32) {
    let per_block = rows.div_ceil(128);
    let per_block = if per_block < 64 { 64 } else { per_block };
    (per_block, rows.div_ceil(per_block))
}

kernel! {
    /// `partials[b, c] = sum of x[r, c]` over the rows r of block b.
    /// Use [`row_blocks`] to choose the blocks.
    pub ColumnPartials = [
        QUAD_F32, GRID, COLUMN_TILE,
        wgsl!("../../shaders/reduce/column_partials.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.col_quads) * params.blocks);
    uniform ColumnPartialsParams {
        /// Rows.
        rows: u32,
        /// Quads in a row.
        col_quads: u32,
        /// Rows per block; see [`row_blocks`].
        rows_per_block: u32,
        /// Blocks of rows.
        blocks: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// (blocks, cols), overwritten.
        Write partials,
    }
}

kernel! {
    /// `y[c] = sum_b partials[b, c]`: folds partial sums into a parameter's gradient.
    pub ColumnSum = [GRID, COLUMN_TILE, wgsl!("../../shaders/reduce/column_sum.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(column_tiles(params.col_quads));
    uniform ColumnSumParams {
        /// Blocks of rows.
        blocks: u32,
        /// Quads in a row.
        col_quads: u32,
        /// 1 adds to what is there, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (blocks, cols)
        Read partials,
        /// (cols), overwritten or added to, as `accumulate` says.
        Write y,
    }
}

kernel! {
    /// Four times [`ColumnSum`], with its bits, in one dispatch: of partial sums over as many blocks.
    pub ColumnSums = [GRID, COLUMN_TILE, wgsl!("../../shaders/reduce/column_sums.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(
        column_tiles(params.a_quads)
            + column_tiles(params.b_quads)
            + column_tiles(params.c_quads)
            + column_tiles(params.d_quads)
    );
    uniform ColumnSumsParams {
        /// Blocks of rows.
        blocks: u32,
        /// 1 adds to what is there, 0 overwrites.
        accumulate: u32,
        /// Quads in a row of `a`.
        a_quads: u32,
        /// Quads in a row of `b`.
        b_quads: u32,
        /// Quads in a row of `c`.
        c_quads: u32,
        /// Quads in a row of `d`.
        d_quads: u32,
    }
    buffers {
        /// (blocks, a_cols)
        Read a,
        /// (blocks, b_cols)
        Read b,
        /// (blocks, c_cols)
        Read c,
        /// (blocks, d_cols)
        Read d,
        /// (a_cols), overwritten or added to, as `accumulate` says.
        Write a_sum,
        /// (b_cols), the same.
        Write b_sum,
        /// (c_cols), the same.
        Write c_sum,
        /// (d_cols), the same.
        Write d_sum,
    }
}

kernel! {
    /// `mean = sum_r values[r] / rows`, in one workgroup.
    pub RowMean = [LANES_64, REDUCE, wgsl!("../../shaders/reduce/row_mean.wgsl")];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform RowMeanParams {
        /// Rows.
        rows: u32,
    }
    buffers {
        /// (rows)
        Read values,
        /// (1), overwritten; 0 without rows.
        Write mean,
    }
}

/// The most workgroups of a [`ValueScan`].
pub const VALUE_SCAN_GROUPS: u32 = 64;

kernel! {
    /// Largest magnitude, scaled sum of squares, counts, and the first element that is not finite.
    pub ValueScan = [
        STEP_STATE, QUAD_F32, WIDE, LANES_64, REDUCE,
        wgsl!("../../shaders/reduce/value_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| [params.groups, 1, 1];
    uniform ValueScanParams {
        /// Quads of the tensor.
        quads: u32,
        /// Quads in a row.
        row_quads: u32,
        /// Elements in a row.
        cols: u32,
        /// Workgroups, and partials: at most [`VALUE_SCAN_GROUPS`].
        groups: u32,
        /// Index of the first partial.
        first_partial: u32,
        /// Magnitudes above 0 and below these bits of an f32 count as subnormal.
        smallest_normal_bits: u32,
    }
    buffers {
        /// (rows, cols)
        Read x,
        /// [`ValuePartial`](crate::step::ValuePartial): `groups` of them from `first_partial` on
        /// are overwritten.
        Write partials,
    }
}

kernel! {
    /// `y[c] = sum_b partials[b, first + c] / divisor[c]`, and 0 where the divisor is: the gradient of
    /// what some columns are multiplied with in [`ScaleColumns`](super::ScaleColumns).
    pub DividedColumnSum = [GRID, wgsl!("../../shaders/reduce/divided_column_sum.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform DividedColumnSumParams {
        /// Blocks of rows.
        blocks: u32,
        /// Quads in a row of the partials.
        row_quads: u32,
        /// The first of them that counts.
        first_quad: u32,
        /// How many count.
        quads: u32,
        /// 1 adds to what is there, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (blocks, row_quads)
        Read partials,
        /// (quads)
        Read divisor,
        /// (quads), overwritten or added to, as `accumulate` says.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    ColumnPartials::DECLARATION,
    ColumnSum::DECLARATION,
    ColumnSums::DECLARATION,
    DividedColumnSum::DECLARATION,
    RowMean::DECLARATION,
    ValueScan::DECLARATION,
];
