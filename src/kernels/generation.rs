//! What a language model needs to go on with a text: a cache of the keys and values of what it has
//! read, attention to it, and tokens drawn from logits.
//!
//! A cache has `sequences` texts of at most `context` positions each. A dispatch works on `rows`
//! rows of each; a buffer of positions says where in the text each row is, and rows at positions
//! that the cache does not have are padding: [`CacheAppend`] leaves them out, and
//! [`AttentionCached`] makes zeros of them.

use super::attention::ATTENTION;
use crate::kernel::shared::{
    ACTIVATION, GRID, HEAD_QUADS_64, NUMERICS, QUAD_F32, RANDOM, REDUCE, REDUCE_VEC4, ROW_LANES_64,
    ROW_LANES_256,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::{kernel, wgsl};

/// `Settings`, `scores`, `weight` and the order of logits; wants [`REDUCE`] and the buffers of
/// [`Sample`].
pub const SAMPLE_LOGITS: Fragment = wgsl!("../../shaders/generation/shared/sample_logits.wgsl");
/// `Cut`, `cut_at`: the first tokens in rank; wants [`SAMPLE_LOGITS`] and [`REDUCE_VEC4`].
pub const SAMPLE_CUT: Fragment = wgsl!("../../shaders/generation/shared/sample_cut.wgsl");

kernel! {
    /// Puts the keys and values of rows where their positions are in a cache.
    pub CacheAppend = [
        QUAD_F32, GRID, wgsl!("../../shaders/generation/cache_append.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| {
        grid((params.sequences * params.rows * params.kv_heads * params.quads).div_ceil(64))
    };
    uniform CacheAppendParams {
        /// Sequences of the cache.
        sequences: u32,
        /// Rows of each sequence.
        rows: u32,
        /// Query heads, which are passed over.
        heads: u32,
        /// Key heads, and as many value heads.
        kv_heads: u32,
        /// Quads in a head.
        quads: u32,
        /// Positions of the cache; a row at another is left out.
        context: u32,
    }
    buffers {
        /// (sequences * rows, (heads + 2 kv_heads) * head)
        Read qkv,
        /// (sequences, rows) positions as u32, different within a sequence.
        Read positions,
        /// (sequences, kv_heads, context, head), overwritten at the positions.
        Write keys,
        /// Laid out as `keys`.
        Write values,
    }
}

kernel! {
    /// [`Attention`](super::Attention) of rows to a cache that holds their own keys and values
    /// already ([`CacheAppend`]). A row whose position is not below `context` is zero.
    ///
    /// The sums of a row have the same order, whatever rows are beside it.
    pub AttentionCached = [
        QUAD_F32, GRID, ROW_LANES_64, REDUCE, NUMERICS, ACTIVATION, HEAD_QUADS_64, ATTENTION,
        wgsl!("../../shaders/generation/attention_cached.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.batch * params.time * params.heads);
    overrides {
        /// Positions of the cache.
        context
    }
    uniform AttentionCachedParams {
        /// Sequences.
        batch: u32,
        /// Rows of each sequence.
        time: u32,
        /// Query heads; a multiple of `kv_heads`.
        heads: u32,
        /// Key heads, and as many value heads.
        kv_heads: u32,
        /// Quads in a head, at most [`MAX_HEAD_QUADS`](super::MAX_HEAD_QUADS).
        head_quads: u32,
        /// Factor on q·k.
        scale: f32,
        /// Scaled scores s become `soft_cap * tanh(s / soft_cap)`; 0 leaves them.
        soft_cap: f32,
        /// Positions that a query sees, itself and those before it: at least 1; `context` for all.
        window: u32,
    }
    buffers {
        /// (batch * time, (heads + 2 kv_heads) * head), of which the queries are read.
        Read qkv,
        /// (batch, time) positions as u32.
        Read positions,
        /// (batch, kv_heads, context, head)
        Read keys,
        /// Laid out as `keys`.
        Read values,
        /// (batch * time, heads * head), overwritten.
        Write output,
    }
}

kernel! {
    /// Draws a token from each row of logits.
    ///
    /// In this order: the logit of a token that the text has already is divided by the repetition
    /// penalty where it is positive, else multiplied with it (Keskar et al. 2019). Weights are
    /// exp((logit - largest) / temperature). Tokens are ranked by logit, and among equals the lower
    /// id comes first. Kept are the first `top_k`; of those, the first ones whose weights add up to
    /// at least `top_p` of all theirs (the smallest such set; Holtzman et al. 2019); of those, the
    /// ones whose weight is at least `min_p` (of the largest, which is 1; Nguyen et al. 2024). What
    /// is kept is drawn by its weights: the first token by id at which the sum of the weights exceeds u
    /// times all of them, with u uniform, word 0 of Threefry-4x32 for the counter (index, 0, 0, 0) and
    /// the key (seed, 0, 0, 4). A temperature of 0 takes the first in rank.
    ///
    /// The cuts are found without sorting, by bisection of the logits' bits and of the ids among
    /// equal logits, with a number of passes that does not depend on the logits. Weights and their
    /// sums are f32: sets may differ from the definition by tokens whose share of the sum is within
    /// its rounding.
    pub Sample = [
        QUAD_F32, GRID, ROW_LANES_256, REDUCE, REDUCE_VEC4, RANDOM, SAMPLE_LOGITS,
        SAMPLE_CUT,
        wgsl!("../../shaders/generation/sample.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |params| grid(params.rows);
    uniform SampleParams {
        /// Rows of logits.
        rows: u32,
        /// Tokens, at least 1.
        vocabulary: u32,
    }
    buffers {
        /// (rows, vocabulary)
        Read logits,
        /// (rows, 8) words, those that are numbers as bits of f32: temperature, top_k (0: all), top_p
        /// (1: all), min_p (0: all), repetition penalty (1: none), seed, index, an unused word.
        Read settings,
        /// (rows, vocabulary.div_ceil(32)) words: bit i % 32 of word i / 32 where the text has token i.
        Read seen,
        /// (rows, 4) words, overwritten: the token, how many were kept, the first token whose logit is
        /// NaN or Inf (2^32 - 1: none), and the bits of that logit. With such a logit nothing is drawn,
        /// and 0 are kept.
        Write sampled,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] =
    &[CacheAppend::DECLARATION, AttentionCached::DECLARATION, Sample::DECLARATION];
