//! Kernels that treat every element alike. Padding stays zero: each maps zeros to zero.

use crate::kernel::shared::{ACTIVATION, GRID, NUMERICS, QUAD_F32};
use crate::kernel::{Declaration, Kernel, grid};
use crate::{kernel, wgsl};

kernel! {
    /// y = a + b.
    pub Add = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/add.wgsl")];
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
    pub Activate = [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/elementwise/activate.wgsl")];
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
        [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/elementwise/activate_backward.wgsl")];
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
        Write x_gradient,
    }
}

kernel! {
    /// y = x. Also the yardstick of bandwidth: no kernel can move its bytes faster.
    pub CopyQuads = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/copy_quads.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CopyQuadsParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// y = factor x.
    pub Scale = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/scale.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform ScaleParams {
        /// Quads in each buffer.
        quads: u32,
        /// The factor.
        factor: f32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// `y[r, c] = x[r, c] numerator[c] / divisor[c] + bias[c]` over some columns. The factor is exactly
    /// 1 where both are the same.
    pub ScaleColumns = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/scale_columns.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid((params.rows * params.quads).div_ceil(64));
    uniform ScaleColumnsParams {
        /// Rows.
        rows: u32,
        /// Quads in a row.
        row_quads: u32,
        /// The first quad of each row that is written.
        first_quad: u32,
        /// Quads of each row that are written.
        quads: u32,
        /// 0 for a factor of 1.
        has_factor: u32,
        /// 1 where there is a bias.
        has_bias: u32,
    }
    buffers {
        /// (rows, row_quads)
        Read x,
        /// f32 (quads); any buffer where `has_factor` is 0.
        Read numerator,
        /// f32 (quads); any buffer where `has_factor` is 0.
        Read divisor,
        /// (row_quads); any buffer where `has_bias` is 0.
        Read bias,
        /// (rows, row_quads), overwritten in these columns.
        Write y,
    }
}

kernel! {
    /// y = a b, element by element.
    pub Multiply = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/multiply.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform MultiplyParams {
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

kernel! {
    /// `y[r, c] = x[r, c] + b[r % period, c]`: a bias with period 1, learned positions with the
    /// context length as period.
    pub BroadcastAdd = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/broadcast_add.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform BroadcastAddParams {
        /// Quads in `x` and in `y`.
        quads: u32,
        /// Quads in `b`: period times quads per row, at least 1.
        period_quads: u32,
    }
    buffers {
        /// (rows, cols) as quads
        Read x,
        /// (period, cols) as quads
        Read b,
        /// (rows, cols) as quads, overwritten.
        Write y,
    }
}

kernel! {
    /// y = cap tanh(x / cap): logits that cannot leave (-cap, cap), as in Gemma 2. NaN where x is NaN
    /// or Inf, so that the cap hides no overflow.
    pub SoftCap = [QUAD_F32, GRID, NUMERICS, ACTIVATION, wgsl!("../../shaders/elementwise/soft_cap.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform SoftCapParams {
        /// Quads in each buffer.
        quads: u32,
        /// The bound, above 0.
        cap: f32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// dx = dy (1 - tanh²(x / cap)), where x is what the forward pass read.
    pub SoftCapBackward =
        [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/elementwise/soft_cap_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform SoftCapBackwardParams {
        /// Quads in each buffer.
        quads: u32,
        /// The bound, above 0.
        cap: f32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads)
        Read dy,
        /// (quads), overwritten.
        Write x_gradient,
    }
}

kernel! {
    /// y = f(gate) up over rows gate | up (Shazeer, "GLU variants improve transformer"): SwiGLU
    /// where f is [`Activation::Silu`], GeGLU where it is a GELU.
    pub Gated = [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/elementwise/gated.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform GatedParams {
        /// Quads in `y`: rows times `hidden_quads`.
        quads: u32,
        /// Quads in a row of `y`: hidden / 4, where hidden is a multiple of 4.
        hidden_quads: u32,
        /// f, an [`Activation`] as u32.
        kind: u32,
    }
    buffers {
        /// (rows, 2 hidden): gate | up
        Read x,
        /// (rows, hidden), overwritten.
        Write y,
    }
}

kernel! {
    /// dgate = dy up f'(gate), dup = dy f(gate), where x is what the forward pass read.
    pub GatedBackward =
        [QUAD_F32, GRID, ACTIVATION, wgsl!("../../shaders/elementwise/gated_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform GatedBackwardParams {
        /// Quads in `dy`: rows times `hidden_quads`.
        quads: u32,
        /// Quads in a row of `dy`: hidden / 4, where hidden is a multiple of 4.
        hidden_quads: u32,
        /// f, an [`Activation`] as u32.
        kind: u32,
    }
    buffers {
        /// (rows, 2 hidden): gate | up
        Read x,
        /// (rows, hidden)
        Read dy,
        /// (rows, 2 hidden): dgate | dup, overwritten.
        Write x_gradient,
    }
}

kernel! {
    /// y = x, rounded to the storage precision: to nearest, ties to even.
    pub CastFromF32 = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/cast_from_f32.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CastFromF32Params {
        /// Quads.
        quads: u32,
    }
    buffers {
        /// f32 (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// y = x as f32, exactly.
    pub CastToF32 = [QUAD_F32, GRID, wgsl!("../../shaders/elementwise/cast_to_f32.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CastToF32Params {
        /// Quads.
        quads: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// f32 (quads), overwritten.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Activate::DECLARATION,
    ActivateBackward::DECLARATION,
    Add::DECLARATION,
    BroadcastAdd::DECLARATION,
    CastFromF32::DECLARATION,
    CastToF32::DECLARATION,
    CopyQuads::DECLARATION,
    Gated::DECLARATION,
    GatedBackward::DECLARATION,
    Multiply::DECLARATION,
    Scale::DECLARATION,
    ScaleColumns::DECLARATION,
    SoftCap::DECLARATION,
    SoftCapBackward::DECLARATION,
];
