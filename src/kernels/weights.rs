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

kernel! {
    /// average += share * (weight - average) where the step is applied, else nothing is written: an
    /// exponential moving average. What it would make NaN or Inf of stays as it is.
    pub AverageWeights = [
        STEP_STATE, GRID, WEIGHT_F32, wgsl!("../../shaders/weights/average_weights.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform AverageWeightsParams {
        /// Quads in `average`.
        quads: u32,
        /// 1 - decay.
        share: f32,
        /// 1: the share is at least 9 / (10 + t), t being the applied steps with this one. 0: it is
        /// the same in every step.
        warms_up: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// A whole flat buffer of weights, after the update; it is only read.
        Write weight,
        /// (quads) f32, advanced or left alone.
        Write average,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] =
    &[StoreWeights::DECLARATION, LoadWeights::DECLARATION, AverageWeights::DECLARATION];
