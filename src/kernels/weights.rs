//! Values into the optimizer's storage of weights and out of it.
//!
//! Optimizers change weights through the same fragment, in their own kernels; see
//! [`WeightStorage`](crate::kernel::WeightStorage).

use crate::kernel::shared::{GRID, STEP_STATE, WEIGHT_F32};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// weight = x, rounded to nearest where the storage rounds.
    pub StoreWeights = [STEP_STATE, GRID, WEIGHT_F32, wgsl!("../../shaders/weights/store_weights.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform StoreWeightsParams {
        /// Quad of `weight` that the first of `x` goes to.
        first: u32,
        /// Quads in `x`.
        quads: u32,
    }
    buffers {
        /// (quads) f32
        Read x,
        /// A whole flat buffer of weights, overwritten from quad `first` on.
        Write weight,
    }
}

kernel! {
    /// y = weight, with all that the storage knows of it.
    pub LoadWeights = [STEP_STATE, GRID, WEIGHT_F32, wgsl!("../../shaders/weights/load_weights.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform LoadWeightsParams {
        /// Quads in `y`.
        quads: u32,
    }
    buffers {
        /// A whole flat buffer of weights; it is only read.
        Write weight,
        /// (quads) f32, overwritten.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[StoreWeights::DECLARATION, LoadWeights::DECLARATION];
