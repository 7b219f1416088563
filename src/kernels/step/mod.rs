//! Kernels that frame a step: the loss scale goes in, the gradient is scanned, one verdict says
//! whether anything is committed, and a record is left.
//!
//! [`GradientScan`], [`GradientNorm`] and [`Verdict`] work on bits and integer exponents where it
//! matters, so the norm is right for every finite gradient and no test depends on NaN arithmetic.

mod chunk;
mod gradient;
mod telemetry;
mod verdict;

pub use chunk::*;
pub use gradient::*;
pub use telemetry::*;
pub use verdict::*;

use crate::kernel::shared::{GRID, STEP_STATE};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// y = loss_scale * factor: where the backward pass starts.
    pub SeedGradient = [STEP_STATE, wgsl!("../../../shaders/step/seed_gradient.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform SeedGradientParams {
        /// Weight of the loss, such as 1 / microbatches.
        factor: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1), overwritten.
        Write y,
    }
}

kernel! {
    /// committed = staged where the step is applied, else nothing is written.
    pub Commit = [STEP_STATE, GRID, wgsl!("../../../shaders/step/commit.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CommitParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (quads), of any 4-byte type.
        Read staged,
        /// (quads), overwritten or left alone.
        Write committed,
    }
}

kernel! {
    /// y = factor * x, or y += factor * x.
    pub Accumulate = [GRID, wgsl!("../../../shaders/step/accumulate.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform AccumulateParams {
        /// Quads of f32 in each buffer.
        quads: u32,
        /// Factor on x.
        factor: f32,
        /// 0 overwrites y, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten or added to.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    GradientScan::DECLARATION,
    GradientNorm::DECLARATION,
    Verdict::DECLARATION,
    SeedGradient::DECLARATION,
    Commit::DECLARATION,
    Telemetry::DECLARATION,
    UpdateScan::DECLARATION,
    TensorTelemetry::DECLARATION,
    Accumulate::DECLARATION,
];
