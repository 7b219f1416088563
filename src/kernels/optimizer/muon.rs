//! Muon (Jordan et al., 2024): momentum, made orthogonal by matrix products, for hidden matrices;
//! and AdamW over packed moments for the other tensors.

use crate::kernel::grid;
use crate::kernel::shared::{
    ADAM_MOMENTS, CLIPPED, GRID, ROW, SCAN_FOLD, SCAN_PARTIAL, STEP_STATE, TENSOR_RANGE,
    WEIGHT_F32, WIDE,
};
use crate::{kernel, wgsl};

kernel! {
    /// Momentum of matrices, and what is to be orthogonalised.
    pub MuonMomentum = [
        STEP_STATE, GRID, CLIPPED,
        wgsl!("../../../shaders/muon_momentum.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonMomentumParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// First packed quad of these matrices.
        base: u32,
        /// Decay of the momentum.
        momentum: f32,
        /// 1 - momentum, rounded once.
        one_minus_momentum: f32,
        /// 1 looks ahead by one momentum step, 0 does not.
        nesterov: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// Packed momentum, advanced.
        Write momentum_buffer,
        /// The matrices one after the other, overwritten or in a skipped step left alone.
        Write x,
    }
}

kernel! {
    /// Inverse Frobenius norm of each matrix, from the partials of a
    /// [`GradientScan`](crate::kernels::GradientScan).
    pub MuonNorm = [
        STEP_STATE, GRID, WIDE, SCAN_PARTIAL, SCAN_FOLD, TENSOR_RANGE,
        wgsl!("../../../shaders/muon_norm.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.matrix_count);
    uniform MuonNormParams {
        /// Matrices.
        matrix_count: u32,
        /// The norm counts at least this much.
        eps: f32,
    }
    buffers {
        /// (matrix_count) [`TensorRange`](crate::kernels::TensorRange), of which `first` and
        /// `count` are used.
        Read ranges,
        /// [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (matrix_count, 2), overwritten: the product of both is the inverse.
        Write inverse,
    }
}

kernel! {
    /// Divides each matrix by its Frobenius norm.
    pub MuonNormalize = [
        STEP_STATE, GRID,
        wgsl!("../../../shaders/muon_normalize.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonNormalizeParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`](crate::step::Chunk) of the matrices, whose tensor is the matrix.
        Read chunks,
        /// (matrices, 2) of [`MuonNorm`].
        Read inverse,
        /// The matrices, in place.
        Write x,
    }
}

kernel! {
    /// y = a I + b G + c y for square matrices G and y = G².
    pub MuonPolynomial = [
        GRID, ROW,
        wgsl!("../../../shaders/muon_polynomial.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform MuonPolynomialParams {
        /// Quads of all matrices.
        quads: u32,
        /// Rows and columns of each.
        size: u32,
        /// Factor of the identity.
        a: f32,
        /// Factor of G.
        b: f32,
        /// Factor of G².
        c: f32,
    }
    buffers {
        /// (matrices, size, size)
        Read gram,
        /// (matrices, size, size), overwritten.
        Write y,
    }
}

kernel! {
    /// Moves matrices by their orthogonalised momentum (Jordan et al., 2024).
    pub Muon = [
        STEP_STATE, GRID, WEIGHT_F32,
        wgsl!("../../../shaders/muon.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform MuonParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// First packed quad of these matrices.
        base: u32,
        /// Factor on the update, for the shape of these matrices.
        scale: f32,
        /// Decay of the weight itself, times the learning rate.
        weight_decay: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// The orthogonalised matrices one after the other.
        Read x,
        /// As the gradient, advanced.
        Write weight,
    }
}

kernel! {
    /// AdamW for some of the tensors, with moments that lie packed.
    pub AdamwPacked = [
        STEP_STATE, GRID, CLIPPED, WEIGHT_F32, ADAM_MOMENTS,
        wgsl!("../../../shaders/adamw_packed.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform AdamwPackedParams {
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
        /// Factor on the learning rate of the step.
        learning_rate_factor: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// (tensors) [`TensorState`](crate::step::TensorState)
        Read tensors,
        /// Flat gradient in quads, still scaled and not clipped.
        Read gradient,
        /// As the gradient, advanced.
        Write weight,
        /// First moment, packed, advanced.
        Write m,
        /// Second moment, packed, advanced.
        Write v,
    }
}
