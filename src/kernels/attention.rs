//! Causal self-attention by online softmax: no (time, time) matrix in memory.
//!
//! `qkv` holds (batch * time) rows of `heads` query heads, `kv_heads` key heads and `kv_heads`
//! value heads side by side; query head h attends to key head `h / (heads / kv_heads)`. A head has
//! `head_quads` quads: its dimension is a multiple of 4 and at most 256. The backward pass is
//! three kernels: [`AttentionDelta`], then [`AttentionBackwardQuery`] and
//! [`AttentionBackwardKeyValue`], which write their own columns of one buffer in either order.
//!
//! Each of the three products' kernels exists twice with the same parameters and buffers:
//! `attention_tiled*` multiplies tiles through workgroup memory, which GPUs want;
//! those without the word give a row to an invocation, which is faster where
//! [`Gpu::is_software`](crate::Gpu::is_software) holds.
//!
//! Run as the [`HeadQuads`](crate::kernel::HeadQuads) that fit the heads, the kernels compile
//! faster and take less memory; without, they fit every head.
//!
//! The plain form, for comparison and for small sizes, is
//! [`MatmulTransposedB`](super::MatmulTransposedB), [`CausalSoftmax`],
//! [`Matmul`](super::Matmul).

use crate::kernel::shared::{
    ACTIVATION, GRID, HEAD_QUADS_64, NUMERICS, QUAD_F32, REDUCE, ROW_LANES_64,
};
use crate::kernel::{Declaration, Fragment, Kernel, Variant, grid};
use crate::{kernel, wgsl};

/// `AttentionParams`, the layout of heads, the transform of scores; wants [`NUMERICS`] and
/// [`ACTIVATION`].
pub const ATTENTION: Fragment = wgsl!("../../shaders/attention/shared/attention.wgsl");
/// Two tiles of rows, read where they lie, and their products with one invocation's row; wants
/// [`ATTENTION`] and [`HEAD_QUADS_64`].
pub const ATTENTION_TILE: Fragment = wgsl!("../../shaders/attention/shared/attention_tile.wgsl");
/// What a tile's queries keep of the forward pass.
pub const ATTENTION_STATISTICS: Fragment =
    wgsl!("../../shaders/attention/shared/attention_statistics.wgsl");
/// Products of 64 rows with 64 columns through workgroup memory.
pub const ATTENTION_PRODUCT: Fragment =
    wgsl!("../../shaders/attention/shared/attention_product.wgsl");
/// The cap on blocks of scores, and what queries see of a block; wants [`ATTENTION_PRODUCT`].
pub const ATTENTION_BLOCK: Fragment = wgsl!("../../shaders/attention/shared/attention_block.wgsl");
/// Output gradients in those products, and gradients of scores.
pub const ATTENTION_PRODUCT_BACKWARD: Fragment =
    wgsl!("../../shaders/attention/shared/attention_product_backward.wgsl");

/// The largest `head_quads`.
pub const MAX_HEAD_QUADS: u32 = 64;

/// How many workgroups compute the `time` rows of a head.
const fn blocks(time: u32, variant: Variant) -> u32 {
    time.div_ceil(if variant.subgroups_of_8 { 8 } else { 64 })
}

/// Quads of a head's columns that one workgroup of a tiled kernel computes.
const COLUMN_QUADS: u32 = 16;

const fn tiles(time: u32, head_quads: u32, heads: u32) -> [u32; 3] {
    grid(time.div_ceil(64) * head_quads.div_ceil(COLUMN_QUADS) * heads)
}

/// An attention kernel: all have the same parameters.
macro_rules! attention_kernel {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident, $Params:ident = [$($fragment:expr),+ $(,)?];
        workgroup $size:tt;
        grid |$p:ident $(, $variant:ident)?| $grid:expr;
        $(overrides { $($overrides:tt)* })?
        buffers { $($buffers:tt)* }
    ) => {
        kernel! {
            $(#[$doc])*
            pub $Kernel = [$($fragment),+];
            workgroup $size;
            grid |$p $(, $variant)?| $grid;
            $(overrides { $($overrides)* })?
            uniform $Params {
                /// Sequences.
                batch: u32,
                /// Positions in a sequence.
                time: u32,
                /// Query heads; a multiple of `kv_heads`.
                heads: u32,
                /// Key heads, and as many value heads.
                kv_heads: u32,
                /// Quads in a head, at most [`MAX_HEAD_QUADS`].
                head_quads: u32,
                /// Factor on q·k.
                scale: f32,
                /// Scaled scores s become `soft_cap * tanh(s / soft_cap)`; 0 leaves them.
                soft_cap: f32,
                /// Positions that a query sees, itself and those before it: at least 1; `time` for
                /// all. At most 2^31.
                window: u32,
            }
            buffers { $($buffers)* }
        }
    };
}

attention_kernel! {
    /// o = softmax(q·kᵀ)·v, each position seeing itself and those before it, `window` in all.
    ///
    /// Probabilities are never stored: they multiply the values in f32 and are summed in f32,
    /// whatever the storage of `qkv`. Rounded to 16 bits first, rows whose largest score occurs
    /// twice would have a biased output, which grows over training (arXiv 2510.04212).
    pub Attention, AttentionParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, HEAD_QUADS_64, ATTENTION,
        ATTENTION_TILE,
        wgsl!("../../shaders/attention/attention.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params, variant| grid(blocks(params.time, variant) * params.batch * params.heads);
    overrides {
        /// 1 writes `row_logits`, 0 leaves them out.
        watch
    }
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head), overwritten.
        Write output,
        /// f32 (batch, heads, time, 2), overwritten: each row's largest score, after any cap, and the
        /// log-sum-exp of its scores less it.
        Write statistics,
        /// f32 (batch, heads, time): the row's largest scaled score before the soft cap, and the
        /// entropy of its softmax in nats; NaN both where a score is not finite. Overwritten where
        /// `watch` is 1, else any buffer. [`AttentionSummary`](super::AttentionSummary) folds it.
        Write row_logits,
    }
}

attention_kernel! {
    /// delta = sum over a head of output_gradient * output: what the softmax subtracts backward.
    pub AttentionDelta, AttentionDeltaParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, ATTENTION,
        wgsl!("../../shaders/attention/attention_delta.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid((params.batch * params.time * params.heads).div_ceil(64));
    buffers {
        /// (batch * time, heads * head)
        Read output,
        /// (batch * time, heads * head)
        Read output_gradient,
        /// f32 (batch, heads, time), overwritten.
        Write delta,
    }
}

attention_kernel! {
    /// The gradient of the queries.
    pub AttentionBackwardQuery, AttentionBackwardQueryParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, HEAD_QUADS_64, ATTENTION,
        ATTENTION_TILE,
        wgsl!("../../shaders/attention/attention_backward_query.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params, variant| grid(blocks(params.time, variant) * params.batch * params.heads);
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head)
        Read output_gradient,
        /// f32 (batch, heads, time, 2): what [`Attention`] left.
        Read statistics,
        /// f32 (batch, heads, time)
        Read delta,
        /// Laid out as `qkv`; the columns of the queries are overwritten.
        Write qkv_gradient,
    }
}

attention_kernel! {
    /// The gradients of the keys and values.
    pub AttentionBackwardKeyValue, AttentionBackwardKeyValueParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, HEAD_QUADS_64, ATTENTION, ATTENTION_TILE,
        ATTENTION_STATISTICS,
        wgsl!("../../shaders/attention/attention_backward_key_value.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params, variant| grid(blocks(params.time, variant) * params.batch * params.kv_heads);
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head)
        Read output_gradient,
        /// f32 (batch, heads, time, 2): what [`Attention`] left.
        Read statistics,
        /// f32 (batch, heads, time)
        Read delta,
        /// Laid out as `qkv`; the columns of the keys and values are overwritten.
        Write qkv_gradient,
    }
}

attention_kernel! {
    /// [`Attention`] by products of tiles.
    pub AttentionTiled, AttentionTiledParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, ATTENTION, ATTENTION_PRODUCT, ATTENTION_BLOCK,
        wgsl!("../../shaders/attention/attention_tiled.wgsl"),
    ];
    workgroup [128, 1, 1];
    grid |params| tiles(params.time, params.head_quads, params.batch * params.heads);
    overrides {
        /// 1 writes `row_logits`, 0 leaves them out.
        watch
    }
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head), overwritten.
        Write output,
        /// What [`Attention`] writes, f32 (batch, heads, time, 2).
        Write statistics,
        /// What [`Attention`] writes, f32 (batch, heads, time, 2), where `watch` is 1, else any
        /// buffer.
        Write row_logits,
    }
}

attention_kernel! {
    /// [`AttentionBackwardQuery`] by products of tiles.
    pub AttentionTiledBackwardQuery, AttentionTiledBackwardQueryParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, ATTENTION, ATTENTION_PRODUCT,
        ATTENTION_BLOCK, ATTENTION_PRODUCT_BACKWARD,
        wgsl!("../../shaders/attention/attention_tiled_backward_query.wgsl"),
    ];
    workgroup [128, 1, 1];
    grid |params| tiles(params.time, params.head_quads, params.batch * params.heads);
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head)
        Read output_gradient,
        /// f32 (batch, heads, time, 2): what [`Attention`] left.
        Read statistics,
        /// f32 (batch, heads, time)
        Read delta,
        /// Laid out as `qkv`; the columns of the queries are overwritten.
        Write qkv_gradient,
    }
}

attention_kernel! {
    /// [`AttentionBackwardKeyValue`] by products of tiles.
    pub AttentionTiledBackwardKeyValue, AttentionTiledBackwardKeyValueParams = [
        QUAD_F32, GRID, NUMERICS, ACTIVATION, ATTENTION, ATTENTION_PRODUCT,
        ATTENTION_BLOCK, ATTENTION_PRODUCT_BACKWARD,
        wgsl!("../../shaders/attention/attention_tiled_backward_key_value.wgsl"),
    ];
    workgroup [128, 1, 1];
    grid |params| tiles(params.time, params.head_quads, params.batch * params.kv_heads);
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (batch * time, heads * head)
        Read output_gradient,
        /// f32 (batch, heads, time, 2): what [`Attention`] left.
        Read statistics,
        /// f32 (batch, heads, time)
        Read delta,
        /// Laid out as `qkv`; the columns of the keys and values are overwritten.
        Write qkv_gradient,
    }
}

kernel! {
    /// The causal softmax of a whole matrix of scores, row r being query `r % time`.
    pub CausalSoftmax = [
        QUAD_F32, GRID, ROW_LANES_64, REDUCE, NUMERICS, ACTIVATION,
        wgsl!("../../shaders/attention/causal_softmax.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.rows);
    uniform CausalSoftmaxParams {
        /// batch * heads * time.
        rows: u32,
        /// Positions in a sequence.
        time: u32,
        /// Factor on the scores.
        scale: f32,
        /// Scaled scores s become `soft_cap * tanh(s / soft_cap)`; 0 leaves them.
        soft_cap: f32,
    }
    buffers {
        /// (rows, time)
        Read scores,
        /// (rows, time), overwritten.
        Write probabilities,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Attention::DECLARATION,
    AttentionDelta::DECLARATION,
    AttentionBackwardQuery::DECLARATION,
    AttentionBackwardKeyValue::DECLARATION,
    AttentionTiled::DECLARATION,
    AttentionTiledBackwardQuery::DECLARATION,
    AttentionTiledBackwardKeyValue::DECLARATION,
    CausalSoftmax::DECLARATION,
];
