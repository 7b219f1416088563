//! Kernels that treat every element alike. Padding stays zero: each maps zeros to zero.

use super::shared::{ACTIVATION, GRID, QUAD_F32};
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

/// The functions of [`Activate`] and of every kernel with a fused activation, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Activation {
    /// x
    #[default]
    None = 0,
    /// max(x, 0)
    Relu = 1,
    /// x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2: GPT-2's GELU, PyTorch's `approximate="tanh"`.
    GeluTanh = 2,
    /// x Φ(x), Φ the distribution function of the standard normal.
    GeluErf = 3,
    /// x / (1 + exp(-x)), also called swish.
    Silu = 4,
    /// tanh(x)
    Tanh = 5,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Relu, Self::GeluTanh, Self::GeluErf, Self::Silu, Self::Tanh];
}

kernel! {
    /// y = f(x). NaN stays NaN.
    pub Activate = [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/activate.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform ActivateParams {
        /// Quads in each buffer.
        quads: u32,
        /// An [`Activation`] as u32.
        kind: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// dx = dy f'(x), where x is what the forward pass read. The derivative of ReLU at 0 is 0.
    pub ActivateBackward =
        [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/activate_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform ActivateBackwardParams {
        /// Quads in each buffer.
        quads: u32,
        /// An [`Activation`] as u32.
        kind: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads)
        Read dy,
        /// (quads), overwritten.
        Write dx,
    }
}

/// Every kernel of this family.
pub const ALL: &[Declaration] =
    &[Add::DECLARATION, Activate::DECLARATION, ActivateBackward::DECLARATION];
