//! Muon (Jordan et al., 2024): momentum, made orthogonal by matrix products, for hidden matrices.

use crate::kernel::grid;
use crate::kernel::shared::{
    CLIPPED, GRID, ROW, SCAN_FOLD, SCAN_PARTIAL, STEP_STATE, TENSOR_RANGE, WIDE,
};
use crate::{kernel, update_rule, wgsl};

kernel! {
    /// Momentum of matrices, and what is to be orthogonalised.
    pub MuonMomentum = [
        STEP_STATE, GRID, CLIPPED,
        wgsl!("../../../shaders/optimizer/muon_momentum.wgsl"),
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
        wgsl!("../../../shaders/optimizer/muon_norm.wgsl"),
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
        wgsl!("../../../shaders/optimizer/muon_normalize.wgsl"),
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
        wgsl!("../../../shaders/optimizer/muon_polynomial.wgsl"),
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

update_rule! {
    /// Moves matrices by their orthogonalised momentum (Jordan et al., 2024).
    pub Muon = [wgsl!("../../../shaders/optimizer/muon.wgsl")];
    uniform MuonParams {
        /// First packed quad of these matrices.
        base: u32,
        /// Factor on the update, for the shape of these matrices.
        scale: f32,
    }
    buffers {
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
        /// The orthogonalised matrices one after the other.
        Read x,
    }
}
