//! Kernels that treat every element alike. Padding stays zero: each maps zeros to zero.

use super::shared::{GRID, QUAD_F32};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// y = a + b.
    pub Add = [QUAD_F32, GRID, wgsl!("../../shaders/add.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform AddParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (quads)
        Read a,
        /// (quads)
        Read b,
        /// (quads), overwritten.
        Write y,
    }
}

/// Every kernel of this family.
pub const ALL: &[Declaration] = &[Add::DECLARATION];
