//! Optimizers: one dispatch advances every tensor of a flat parameter buffer.
//!
//! Each reads what [`Verdict`](super::Verdict) left in the state, unscales and clips on the fly,
//! and writes nothing at all if the step is skipped. Padding stays zero.

use super::shared::{CLIPPED, GRID, STEP_STATE, WEIGHT_F32};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    pub Adamw = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/adamw.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
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
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Adam (Kingma and Ba, 2015) with L2 decay, as torch.optim.Adam.
    pub Adam = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/adam.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the first moment.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
        /// Factor of the weight in the gradient.
        weight_decay: f32,
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
        /// First moment, as the gradient, advanced.
        Write m,
        /// Second moment, as the gradient, advanced.
        Write v,
    }
}

kernel! {
    /// Gradient descent with momentum, as torch.optim.SGD.
    pub Sgd = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../shaders/sgd.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform SgdParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Decay of the momentum buffer; 0 leaves that buffer alone.
        momentum: f32,
        /// 1 - dampening is the gradient's share in the momentum buffer after the first step.
        dampening: f32,
        /// 1 looks ahead by one momentum step, 0 does not.
        nesterov: u32,
        /// Factor of the weight in the gradient.
        weight_decay: f32,
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
        /// As the gradient, advanced; its contents before the first applied step do not matter.
        /// Any buffer of one quad or more if momentum is 0.
        Write momentum_buffer,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[Adamw::DECLARATION, Adam::DECLARATION, Sgd::DECLARATION];
