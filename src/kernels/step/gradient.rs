//! The gradient of a step is scanned, and its norm opens the step: both work on bits and integer
//! exponents where it matters.

use crate::kernel::grid;
use crate::kernel::shared::{
    FOLD_8, FOLD_16, GRID, OPEN_STEP, SCAN_FOLD, SCAN_PARTIAL, STEP_STATE, WIDE,
};
use crate::{kernel, wgsl};

/// [`GradientNormParams::norm`]: the L2 norm.
pub const NORM_L2: u32 = 0;
/// [`GradientNormParams::norm`]: the largest magnitude.
pub const NORM_MAX: u32 = 1;
/// [`GradientScanParams::overflow_bits`]: NaN and Inf.
pub const OVERFLOW_NONFINITE: u32 = 0x7f80_0000;
/// [`GradientScanParams::overflow_bits`]: the largest f32 as well, to which an overflow may have
/// been rounded.
pub const OVERFLOW_LARGEST: u32 = 0x7f7f_ffff;

kernel! {
    /// Largest magnitude, scaled sum of squares and counts of each chunk of the gradient.
    pub GradientScan = [
        STEP_STATE, GRID, WIDE, SCAN_PARTIAL, FOLD_8, SCAN_FOLD,
        wgsl!("../../../shaders/step/gradient_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform GradientScanParams {
        /// Rows of the chunk table.
        chunk_count: u32,
        /// Magnitudes with these bits or more count as overflow: [`OVERFLOW_NONFINITE`] or
        /// [`OVERFLOW_LARGEST`].
        overflow_bits: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`](crate::step::Chunk)
        Read chunks,
        /// Flat gradient in quads; padding is zero.
        Read gradient,
        /// (chunk_count) [`ScanPartial`](crate::step::ScanPartial), overwritten.
        Write partials,
    }
}

kernel! {
    /// Global norm and counts of the gradient; opens the step.
    pub GradientNorm = [
        STEP_STATE, WIDE, SCAN_PARTIAL, FOLD_16, SCAN_FOLD, OPEN_STEP,
        wgsl!("../../../shaders/step/gradient_norm.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform GradientNormParams {
        /// Partials; 0 is a norm of 0.
        partial_count: u32,
        /// Rows of the tensor table.
        tensor_count: u32,
        /// [`NORM_L2`] or [`NORM_MAX`].
        norm: u32,
        /// Norms above are clipped to it, unless a policy says less.
        max_norm: f32,
    }
    buffers {
        /// (partial_count) [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients are reset.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState): the fields of the step.
        Write state,
    }
}
