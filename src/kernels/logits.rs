//! What keeps logits in bounds, and tells how large they are: norms of queries and keys, QK-clip,
//! and summaries of what attention and the loss have seen.
//!
//! Heads lie as in [`attention`](super::attention): in a row of `qkv` all query heads, then the
//! key heads, then the value heads, each of `head_quads` quads.

use crate::kernel::shared::{
    CENTRED, COLUMN_TILE, GRID, LANES_64, NUMERICS, OFFSET_WEIGHT, QUAD_F32, RANGE, REDUCE, ROW,
    STEP_STATE, WEIGHT_F32,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::{kernel, wgsl};

/// `head_sum`, `scaled_moments`: the heads of a row, side by side in a workgroup of 64; joined after
/// [`ROW`], [`RANGE`], [`CENTRED`] and [`OFFSET_WEIGHT`].
pub const HEAD_NORM: Fragment = wgsl!("../../shaders/logits/shared/head_norm.wgsl");
/// `Summary` of rows: a largest number, a sum, and whether any was not finite; joined after
/// [`REDUCE`] and [`NUMERICS`].
pub const SUMMARY: Fragment = wgsl!("../../shaders/logits/shared/summary.wgsl");

/// `(rows_per_block, blocks)` for [`HeadNormBackward`]: at most 512 blocks, since each is a
/// workgroup that writes gradients of activations too.
pub const fn head_norm_blocks(rows: u32) -> (u32, u32) {
    let per_block = rows.div_ceil(512);
    let per_block = if per_block < 4 { 4 } else { per_block };
    (per_block, rows.div_ceil(per_block))
}

kernel! {
    /// QK-norm: RMSNorm or LayerNorm without bias over each query and key head, with one weight for
    /// all queries and one for all keys (arXiv 2302.05442, 2309.14322). Values are copied.
    pub HeadNorm = [
        QUAD_F32, GRID, ROW, RANGE, CENTRED, OFFSET_WEIGHT, HEAD_NORM,
        wgsl!("../../shaders/logits/head_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(
        (params.rows * (params.heads + 2 * params.kv_heads))
            .div_ceil(64 / params.head_quads.next_power_of_two())
    );
    uniform HeadNormParams {
        /// Rows.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key heads, and as many value heads.
        kv_heads: u32,
        /// Quads in a head, at most 64.
        head_quads: u32,
        /// 1 takes the mean away first (LayerNorm), 0 does not (RMSNorm).
        centered: u32,
        /// Added to the mean square; positive, so that a head of zeros has a finite 1 / std.
        eps: f32,
        /// Added to the weights: 0, or 1 where they are stored as what they differ from 1 by.
        weight_offset: f32,
    }
    buffers {
        /// (rows, (heads + 2 kv_heads) * head)
        Read x,
        /// (head)
        Read query_weight,
        /// (head)
        Read key_weight,
        /// (rows, (heads + 2 kv_heads) * head), overwritten.
        Write y,
    }
}

kernel! {
    /// Gradients of [`HeadNorm`]; those of the weights as partial sums, which
    /// [`ColumnSum`](super::ColumnSum) folds. Statistics are computed again: x is read anyway.
    pub HeadNormBackward = [
        QUAD_F32, GRID, ROW, RANGE, CENTRED, OFFSET_WEIGHT, HEAD_NORM, COLUMN_TILE,
        wgsl!("../../shaders/logits/head_norm_backward.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.blocks);
    uniform HeadNormBackwardParams {
        /// Rows.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Key heads, and as many value heads.
        kv_heads: u32,
        /// Quads in a head, at most 64.
        head_quads: u32,
        /// As in the forward pass.
        centered: u32,
        /// As in the forward pass.
        eps: f32,
        /// Rows per block; see [`head_norm_blocks`].
        rows_per_block: u32,
        /// Blocks of rows.
        blocks: u32,
        /// As in the forward pass.
        weight_offset: f32,
    }
    buffers {
        /// (rows, (heads + 2 kv_heads) * head)
        Read x,
        /// (head)
        Read query_weight,
        /// (head)
        Read key_weight,
        /// (rows, (heads + 2 kv_heads) * head): gradient of y.
        Read dy,
        /// (rows, (heads + 2 kv_heads) * head), overwritten.
        Write x_gradient,
        /// f32 (blocks, head), overwritten.
        Write query_partials,
        /// f32 (blocks, head), overwritten.
        Write key_partials,
    }
}

kernel! {
    /// Per head, the largest logit and the mean entropy of an [`Attention`](super::Attention).
    pub AttentionSummary = [
        STEP_STATE, LANES_64, REDUCE, NUMERICS, SUMMARY,
        wgsl!("../../shaders/logits/attention_summary.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| [params.heads, 1, 1];
    uniform AttentionSummaryParams {
        /// Sequences.
        batch: u32,
        /// Positions in a sequence.
        time: u32,
        /// Query heads.
        heads: u32,
        /// 1 goes on from what the step's microbatches before left, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput), for the number of microbatches before.
        Read input,
        /// f32 (batch, heads, time): largest logit, entropy.
        Read row_logits,
        /// f32 (heads), overwritten, or raised to the largest. NaN where a row is.
        Write max_logit,
        /// f32 (heads), overwritten, or the mean over the microbatches. NaN where a row is.
        Write entropy,
    }
}

kernel! {
    /// The largest logit of a [`CrossEntropy`](super::CrossEntropy), and the share of its mean that
    /// is z-loss: `z_loss mean(lse²)`. Rows that are ignored do not count. The mean over the
    /// microbatches of a step is that over all its targets.
    pub LogitSummary = [
        STEP_STATE, LANES_64, REDUCE, NUMERICS, SUMMARY, wgsl!("../../shaders/logits/logit_summary.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform LogitSummaryParams {
        /// Rows.
        rows: u32,
        /// Target of rows that do not count.
        ignore_index: u32,
        /// Factor of lse² in a row's loss.
        z_loss: f32,
        /// 1 goes on from what the step's microbatches before left, 0 overwrites.
        accumulate: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput), for the number of microbatches before.
        Read input,
        /// f32 (rows): largest logit, and log-sum-exp less it.
        Read statistics,
        /// (rows)
        Read targets,
        /// (2): output of [`CountTargets`](super::CountTargets).
        Read counts,
        /// f32 (1), overwritten, or raised to the largest; the lowest f32 where no row counts.
        /// NaN where a row is.
        Write max_logit,
        /// f32 (1), overwritten, or the mean over the microbatches. NaN where a row is.
        Write penalty,
    }
}

kernel! {
    /// QK-clip (arXiv 2507.20534) of one layer's packed projection, weight or bias, where
    /// [`StepState::verdict`](crate::step::StepState::verdict) is [`APPLY`](crate::step::APPLY).
    ///
    /// The logits of query head h shrink by `gamma = min(1, threshold / max_logit)`. With one key
    /// head per query head, queries get gamma^alpha and keys gamma^(1 - alpha). A key head that
    /// several query heads share gets the power of the least gamma among them, and each query head
    /// its own gamma over that, which may exceed 1: so every product shrinks by its own gamma.
    /// Groups without a logit above the threshold, and values, keep their bits.
    pub QkClip =
        [STEP_STATE, GRID, NUMERICS, WEIGHT_F32, wgsl!("../../shaders/logits/qk_clip.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(((params.heads + params.kv_heads) * params.head_quads).div_ceil(64));
    uniform QkClipParams {
        /// Quad of `weight` that the tensor begins at.
        first: u32,
        /// Query heads; a multiple of `kv_heads`.
        heads: u32,
        /// Key heads, and as many value heads.
        kv_heads: u32,
        /// Quads of the tensor that belong to one head: all its rows.
        head_quads: u32,
        /// Largest logit that is left alone; positive.
        threshold: f32,
        /// Share of the queries, in [0, 1]; the keys take the rest.
        alpha: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// f32 (heads): the largest logit before any soft cap.
        Read max_logit,
        /// A whole flat buffer of weights; ((heads + 2 kv_heads), head_quads) from `first` on,
        /// multiplied in place or left alone.
        Write weight,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    HeadNorm::DECLARATION,
    HeadNormBackward::DECLARATION,
    AttentionSummary::DECLARATION,
    LogitSummary::DECLARATION,
    QkClip::DECLARATION,
];
