//! Tokens and positions on their way in: table rows, learned positions, rotary embedding.

use crate::kernel::shared::{GRID, QUAD_F32, TABLE_ROWS};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// `y[r] = table[tokens[r]]`.
    ///
    /// A table that no binding holds is read in parts of whole rows, one run each, which write the
    /// rows of y whose ids are theirs.
    ///
    /// An id outside the vocabulary gives a row of zeros and takes no part in the backward pass, so
    /// that a bad id cannot read or write another row; reject such ids on the host, where they can
    /// be named.
    pub Embedding = [QUAD_F32, GRID, TABLE_ROWS, wgsl!("../../shaders/embedding/embedding.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.quads).div_ceil(64));
    uniform EmbeddingParams {
        /// Tokens.
        rows: u32,
        /// Quads in a row.
        quads: u32,
        /// The id of the table's first row: 0 unless this is a part of a larger one.
        first: u32,
        /// Rows of the table.
        table_rows: u32,
        /// Ids below it are valid: the rows of all parts.
        vocabulary: u32,
    }
    buffers {
        /// (rows) token ids as u32
        Read tokens,
        /// (table_rows, cols) as quads, or in [blocks](crate::kernel::Variant::blocks)
        Read table,
        /// (rows, cols) as quads, overwritten where the id is one of the table's, and by the first
        /// part where it is not valid.
        Write y,
    }
}

impl EmbeddingParams {
    /// The parameters for a table that one binding holds.
    pub const fn whole(rows: u32, quads: u32, vocabulary: u32) -> Self {
        Self { rows, quads, first: 0, table_rows: vocabulary, vocabulary }
    }
}

kernel! {
    /// Row v of the gradient is the sum of the rows of `dy` whose token is first + v, in their
    /// order: the same bits on every run.
    ///
    /// When accumulating, rows without a token are not touched.
    pub EmbeddingBackward = [QUAD_F32, GRID, wgsl!("../../shaders/embedding/embedding_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.gradient_rows);
    uniform EmbeddingBackwardParams {
        /// Tokens.
        rows: u32,
        /// Quads in a row.
        quads: u32,
        /// The id of the gradient's first row: 0 unless this is a part of a larger one.
        first: u32,
        /// Rows of the gradient.
        gradient_rows: u32,
        /// 0 overwrites the gradient, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// (rows) token ids as u32
        Read tokens,
        /// (rows, cols) as quads
        Read dy,
        /// (gradient_rows, cols) as f32 quads, overwritten or added to.
        Write gradient,
    }
}

kernel! {
    /// Row t of the gradient is the sum of the rows b time + t of `dy`, in order of b: the backward
    /// pass of learned positions, whose forward pass is [`BroadcastAdd`](super::BroadcastAdd).
    pub PositionBackward = [QUAD_F32, GRID, wgsl!("../../shaders/embedding/position_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.time_quads.div_ceil(64));
    uniform PositionBackwardParams {
        /// Sequences.
        batch: u32,
        /// Quads of one sequence: positions times quads per row.
        time_quads: u32,
        /// 0 overwrites the gradient, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// (batch time, cols) as quads
        Read dy,
        /// (time, cols) as f32 quads, overwritten or added to.
        Write gradient,
    }
}

kernel! {
    /// Rotary position embedding (Su et al., "RoFormer") of the first heads of each row; the
    /// remaining columns are copied, so queries and keys of a fused projection turn and values do
    /// not.
    ///
    /// Pairs are (j, j + head_dim / 2), the "rotate half" convention of Llama. The inverse rotation
    /// is the backward pass.
    pub Rotary = [QUAD_F32, GRID, wgsl!("../../shaders/embedding/rotary.wgsl")];
    workgroup [64, 1, 1];
    grid |params| {
        let units = params.quads - params.rotated_heads * params.half_quads;
        grid((params.rows * units).div_ceil(64))
    };
    uniform RotaryParams {
        /// Rows: batch times time.
        rows: u32,
        /// Quads in a row.
        quads: u32,
        /// Positions in the table; row r of `x` has position r % time.
        time: u32,
        /// Heads that turn, from column 0 on.
        rotated_heads: u32,
        /// head_dim / 8, where head_dim is a multiple of 8.
        half_quads: u32,
        /// 0 turns forwards, 1 backwards.
        inverse: u32,
    }
    buffers {
        /// (time, head_dim) as f32: the [`rotary_table`].
        Read table,
        /// (rows, cols) as quads
        Read x,
        /// (rows, cols) as quads, overwritten.
        Write y,
    }
}

/// By how much each pair of a head's columns turns from one position to the next, in radians:
/// base^(-2 j / head_dim) for j below head_dim / 2 (Su et al., "RoFormer", section 3.2.2).
///
/// # Panics
/// Unless head_dim is a positive multiple of 8.
#[track_caller]
pub fn rotary_frequencies(head_dim: usize, base: f64) -> Vec<f64> {
    assert!(
        head_dim > 0 && head_dim.is_multiple_of(8),
        "rotary embedding needs a head_dim that is a multiple of 8, not {head_dim}"
    );
    (0..head_dim / 2).map(|j| base.powf(-2.0 * j as f64 / head_dim as f64)).collect()
}

/// The table of [`Rotary`], (time, head_dim): row t holds the cosines of t times each of the
/// head_dim / 2 frequencies, then the sines. Computed in f64, as WGSL's cos and sin lose all
/// accuracy at large angles.
///
/// # Panics
/// Unless the number of frequencies is a positive multiple of 4.
#[track_caller]
pub fn rotary_table(time: usize, frequencies: &[f64]) -> Vec<f32> {
    assert!(
        !frequencies.is_empty() && frequencies.len().is_multiple_of(4),
        "rotary embedding needs a multiple of 4 frequencies, not {}",
        frequencies.len()
    );
    let mut table = Vec::with_capacity(time * 2 * frequencies.len());
    for t in 0..time {
        let angles = || frequencies.iter().map(|frequency| t as f64 * frequency);
        table.extend(angles().map(|angle| angle.cos() as f32));
        table.extend(angles().map(|angle| angle.sin() as f32));
    }
    table
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Embedding::DECLARATION,
    EmbeddingBackward::DECLARATION,
    PositionBackward::DECLARATION,
    Rotary::DECLARATION,
];
