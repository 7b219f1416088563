//! Optimizers: one dispatch advances every tensor of a flat parameter buffer.
//!
//! Each reads what [`Verdict`](super::Verdict) left in the state, unscales and clips on the fly,
//! and writes nothing that is kept if the step is skipped. Padding stays zero.
//!
//! What a rule needs to know of a whole tensor before it moves a weight comes from passes in front:
//! one partial sum per chunk ([`Agreement`], [`SquaredRatio`], [`WeightSquares`],
//! [`AdafactorSquares`]), then [`TensorFactors`] makes one number per tensor of them. Those passes
//! are in `passes`; rules of several kernels of their own have a file each.

mod adafactor;
mod muon;
mod passes;

pub use adafactor::*;
pub use muon::*;
pub use passes::*;

use crate::kernel::shared::{ADAM_MOMENTS, AGREES, CLIPPED, GRID, STEP_STATE, WEIGHT_F32};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

/// [`AdamwScaledParams::factor`]: none.
pub const FACTOR_NONE: u32 = 0;

/// [`AdamwScaledParams::factor`]: on the learning rate.
pub const FACTOR_LEARNING_RATE: u32 = 1;

/// [`AdamwScaledParams::factor`]: on the elements that agree in sign with the gradient.
pub const FACTOR_AGREEING: u32 = 2;

kernel! {
    /// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    pub Adamw = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../../shaders/adamw.wgsl")];
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
    pub Adam = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../../shaders/adam.wgsl")];
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
    pub Sgd = [STEP_STATE, GRID, CLIPPED, WEIGHT_F32, wgsl!("../../../shaders/sgd.wgsl")];
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

kernel! {
    /// AMSGrad (Reddi, Kale and Kumar, 2018) over AdamW or Adam, as PyTorch: the maximum is that of
    /// the uncorrected second moment.
    pub Amsgrad = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../../shaders/amsgrad.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AmsgradParams {
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
        /// Factor of the weight in the gradient.
        l2_decay: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
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
        /// Largest second moment so far, as the gradient, advanced.
        Write v_max,
    }
}

kernel! {
    /// AdamW with a factor per tensor: StableAdamW, cautious updates; and with cautious decay.
    pub AdamwScaled = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../../shaders/adamw_scaled.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwScaledParams {
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
        /// [`FACTOR_NONE`], [`FACTOR_LEARNING_RATE`] or [`FACTOR_AGREEING`].
        factor: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
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
    /// Adam-atan2 (Everett et al., 2024), with decoupled weight decay.
    pub AdamAtan2 = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS, AGREES,
        wgsl!("../../../shaders/adam_atan2.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamAtan2Params {
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
        /// Factor on the angle.
        a: f32,
        /// Factor on the root of the second moment; greater than 0.
        b: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
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
    /// Lion (Chen et al., 2023): the sign of a blend of momentum and gradient.
    pub Lion = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, AGREES,
        wgsl!("../../../shaders/lion.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform LionParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Share of the momentum in the blend.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the momentum.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
        /// 1 keeps only elements that agree in sign with the gradient, times the factor.
        cautious: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// Momentum, as the gradient, advanced.
        Write m,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Adamw::DECLARATION,
    Adam::DECLARATION,
    Sgd::DECLARATION,
    Amsgrad::DECLARATION,
    AdamwScaled::DECLARATION,
    AdamAtan2::DECLARATION,
    Lion::DECLARATION,
    Agreement::DECLARATION,
    SquaredRatio::DECLARATION,
    MomentStatistics::DECLARATION,
    TensorFactors::DECLARATION,
    WeightSquares::DECLARATION,
    AdafactorScan::DECLARATION,
    AdafactorFactors::DECLARATION,
    AdafactorSquares::DECLARATION,
    Adafactor::DECLARATION,
    MuonMomentum::DECLARATION,
    MuonNorm::DECLARATION,
    MuonNormalize::DECLARATION,
    MuonPolynomial::DECLARATION,
    Muon::DECLARATION,
    AdamwPacked::DECLARATION,
];
