//! AdamW, Adam and Lion with moments in fewer bits: bf16, or codes of 8 bits in blocks of 64 quads
//! with a scale each. Moments are rounded at random, with the odds that make them right on average.
//!
//! The update is that of the moments before they are rounded. A buffer of codes has the scales of
//! all blocks in front, 8 to a chunk, then a word for each quad; see
//! [`MomentStorage`](crate::kernel::MomentStorage).

use super::rule::UpdateParams;
use crate::kernel::shared::{
    ADAM_MOMENTS_BF16, ADAM_MOMENTS_BLOCKS, ADAM_ROOT, BF16, CLIPPED, GRID, LION_UPDATE,
    MOMENT_BF16, MOMENT_CODES, MOMENT_DRAWS, RANDOM, STEP_STATE, UPDATE_FRAME, UPDATE_FRAME_BLOCKS,
    WEIGHT_F32,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::{kernel, wgsl};

const ADAMW: Fragment = wgsl!("../../../shaders/optimizer/adamw.wgsl");
const ADAM: Fragment = wgsl!("../../../shaders/optimizer/adam.wgsl");

/// A rule over moments in fewer bits, in this frame.
macro_rules! compact_rule {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident, $Params:ident = $frame:ident [$($fragment:expr),+ $(,)?];
        uniform { $($field:tt)* }
        buffers { $($buffer:tt)* }
    ) => {
        kernel! {
            $(#[$doc])*
            pub $Kernel = [
                STEP_STATE, GRID, CLIPPED, WEIGHT_F32, BF16, RANDOM, MOMENT_DRAWS, $frame,
                $($fragment),+
            ];
            workgroup [64, 1, 1];
            grid |params| grid(params.chunk_count);
            uniform $Params {
                /// Rows of the chunk table.
                chunk_count: u32,
                /// Weight decay of tensors whose own factor on it is 1.
                weight_decay: f32,
                /// Decay of the first moment; of Lion the share of the momentum in the blend.
                beta1: f32,
                /// 1 - beta1, rounded once.
                one_minus_beta1: f32,
                /// Decay of the second moment; of Lion that of the momentum.
                beta2: f32,
                /// 1 - beta2, rounded once.
                one_minus_beta2: f32,
                $($field)*
            }
            buffers {
                /// (1) [`StepState`](crate::step::StepState)
                Read state,
                /// (chunk_count) [`Chunk`](crate::step::Chunk)
                Read chunks,
                /// (tensors) [`TensorState`](crate::step::TensorState)
                Read tensors,
                /// Flat gradient in quads, still scaled and not clipped.
                Read gradient,
                /// As the gradient, advanced.
                Write weight,
                /// First moment, advanced.
                Write m,
                $($buffer)*
            }
        }

        impl UpdateParams for $Params {
            const KERNEL: Declaration = <$Kernel<'static> as Kernel>::DECLARATION;

            fn chunk_count(&self) -> u32 {
                self.chunk_count
            }
        }
    };
}

/// One of Adam's.
macro_rules! compact_adam {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident, $Params:ident = $frame:ident [$($fragment:expr),+ $(,)?]
    ) => {
        compact_rule! {
            $(#[$doc])*
            pub $Kernel, $Params = $frame [ADAM_ROOT, $($fragment),+];
            uniform {
                /// Added to the root of the second moment.
                eps: f32,
            }
            buffers {
                /// Second moment, as the first.
                Write v,
            }
        }
    };
}

compact_adam! {
    /// [`Adamw`](super::Adamw) with moments in bf16.
    pub AdamwBf16, AdamwBf16Params = UPDATE_FRAME [
        MOMENT_BF16, ADAM_MOMENTS_BF16, ADAMW,
        wgsl!("../../../shaders/optimizer/adamw_bf16.wgsl"),
    ]
}

compact_adam! {
    /// [`Adam`](super::Adam) with moments in bf16.
    pub AdamBf16, AdamBf16Params = UPDATE_FRAME [
        MOMENT_BF16, ADAM_MOMENTS_BF16, ADAM,
        wgsl!("../../../shaders/optimizer/adam_bf16.wgsl"),
    ]
}

compact_rule! {
    /// [`Lion`](super::Lion) with a momentum in bf16.
    pub LionBf16, LionBf16Params = UPDATE_FRAME [
        MOMENT_BF16, LION_UPDATE,
        wgsl!("../../../shaders/optimizer/lion_bf16.wgsl"),
    ];
    uniform {}
    buffers {}
}

compact_adam! {
    /// [`Adamw`](super::Adamw) with moments in 8 bits.
    pub AdamwBlocks, AdamwBlocksParams = UPDATE_FRAME_BLOCKS [
        MOMENT_CODES, ADAM_MOMENTS_BLOCKS, ADAMW,
        wgsl!("../../../shaders/optimizer/adamw_blocks.wgsl"),
    ]
}

compact_adam! {
    /// [`Adam`](super::Adam) with moments in 8 bits.
    pub AdamBlocks, AdamBlocksParams = UPDATE_FRAME_BLOCKS [
        MOMENT_CODES, ADAM_MOMENTS_BLOCKS, ADAM,
        wgsl!("../../../shaders/optimizer/adam_blocks.wgsl"),
    ]
}

compact_rule! {
    /// [`Lion`](super::Lion) with a momentum in 8 bits.
    pub LionBlocks, LionBlocksParams = UPDATE_FRAME_BLOCKS [
        MOMENT_CODES, LION_UPDATE,
        wgsl!("../../../shaders/optimizer/lion_blocks.wgsl"),
    ];
    uniform {}
    buffers {}
}
