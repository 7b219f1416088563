//! Dropout and initial parameters, both by counter-based random numbers.
//!
//! A random number is a function of its position and of the names of its stream, never of what was
//! drawn before ([`threefry4x32`](crate::reference::random::threefry4x32)): nothing is stored, the
//! backward pass makes its mask anew, and a resumed run draws what the uninterrupted one drew.

use crate::kernel::shared::{GRID, QUAD_F32, RANDOM, STEP_STATE};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// y = x / (1 - p) with probability 1 - p, else 0. Over `dy` it is its own backward pass.
    ///
    /// The mask depends on the [`StepInput`](crate::step::StepInput), the stream and the position
    /// of the quad only.
    pub Dropout = [QUAD_F32, GRID, STEP_STATE, RANDOM, wgsl!("../../shaders/random/dropout.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform DropoutParams {
        /// Quads in `x` and in `y`.
        quads: u32,
        /// Which sequence of the step; one per dropout layer.
        stream: u32,
        /// 2^32 p: elements whose random word is below it become 0.
        threshold: u32,
        /// 1 / (1 - p).
        scale: f32,
    }
    buffers {
        /// One [`StepInput`](crate::step::StepInput).
        Read step_input,
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

impl DropoutParams {
    /// The parameters for a probability of becoming 0.
    ///
    /// # Panics
    /// Unless 0 <= probability < 1.
    #[track_caller]
    pub fn new(quads: u32, stream: u32, probability: f32) -> Self {
        assert!(
            (0.0..1.0).contains(&probability),
            "the dropout probability is {probability}, but must be at least 0 and below 1"
        );
        // An f32 below 1 is at most 1 - 2^-24, so the threshold fits.
        let threshold = (f64::from(probability) * 2f64.powi(32)).round() as u32;
        let scale = (1.0 / (1.0 - f64::from(probability))) as f32;
        Self { quads, stream, threshold, scale }
    }
}

kernel! {
    /// w = value.
    pub Fill = [GRID, RANDOM, wgsl!("../../shaders/random/fill.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.cols.div_ceil(4)).div_ceil(64));
    uniform FillParams {
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// The value.
        value: f32,
    }
    buffers {
        /// (rows, cols) as f32 quads, padding 0, overwritten.
        Write w,
    }
}

kernel! {
    /// w uniform in [low, high]; element (r, c) depends on seed, stream and (first_row + r) cols + c
    /// only, so a tensor can be drawn in parts.
    pub InitializeUniform = [GRID, RANDOM, wgsl!("../../shaders/random/initialize_uniform.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.cols.div_ceil(4)).div_ceil(64));
    uniform InitializeUniformParams {
        /// Rows of the tensor before these.
        first_row: u32,
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Seed of the run.
        seed: u32,
        /// Which sequence of the seed; one per tensor.
        stream: u32,
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    }
    buffers {
        /// (rows, cols) as f32 quads, padding 0, overwritten.
        Write w,
    }
}

kernel! {
    /// w normal, cut at 5.3 standard deviations; element (r, c) depends on seed, stream and
    /// (first_row + r) cols + c only, so a tensor can be drawn in parts.
    pub InitializeNormal = [GRID, RANDOM, wgsl!("../../shaders/random/initialize_normal.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.cols.div_ceil(4)).div_ceil(64));
    uniform InitializeNormalParams {
        /// Rows of the tensor before these.
        first_row: u32,
        /// Rows.
        rows: u32,
        /// Elements in a row, without padding.
        cols: u32,
        /// Seed of the run.
        seed: u32,
        /// Which sequence of the seed; one per tensor.
        stream: u32,
        /// Mean.
        mean: f32,
        /// Standard deviation.
        deviation: f32,
    }
    buffers {
        /// (rows, cols) as f32 quads, padding 0, overwritten.
        Write w,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Dropout::DECLARATION,
    Fill::DECLARATION,
    InitializeNormal::DECLARATION,
    InitializeUniform::DECLARATION,
];
