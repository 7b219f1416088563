//! Matrix products, batched, of tensors that may be parts of wider ones.
//!
//! Every product is C = A·B with A of (rows, inner), B of (inner, cols) and C of (rows, cols); the
//! name says which operand is stored transposed. Sizes count elements and are arbitrary; offsets
//! and strides count quads. Batch index z is `outer * inner_count + inner`, and an operand starts
//! at `offset + outer * outer_stride + inner / inner_group * inner_stride`: with `inner` as the
//! head, heads that lie side by side in the columns of a row are multiplied without a transpose,
//! and an `inner_group` above one lets several query heads share a key head.
//!
//! B of A·B and of A·Bᵀ may be a whole matrix in [blocks](crate::kernel::Variant::blocks) along its
//! stored rows, which are de-quantized as they are loaded: then `b_row_stride` still counts quads, and
//! `b_offset` and the other strides of B do not count.
//!
//! Each product exists twice with the same parameters and buffers: through workgroup memory, and
//! `*_direct` in registers only, which is faster where
//! [`Gpu::is_software`](crate::Gpu::is_software) holds. Those through workgroup memory may go by
//! [cooperative matrices](crate::kernel::CooperativeMatrix).

use crate::kernel::shared::{
    ACTIVATION, GRID, LANES_64, PRODUCT_TERMS_F32, PRODUCT_TILE_64, QUAD_F32,
};
use crate::kernel::{Declaration, Fragment, Kernel, Variant, grid};
use crate::{kernel, wgsl};

/// `ProductParams` of a batched matrix product.
pub const PRODUCT: Fragment = wgsl!("../../shaders/matmul/shared/product.wgsl");
/// `ActivatedProductParams` and a `store` that adds a bias and applies an activation; has the constant
/// `activation`.
pub const PRODUCT_ACTIVATED: Fragment = wgsl!("../../shaders/matmul/shared/product_activated.wgsl");
/// `finish`: times the derivative of an activation where there is one, and stored; has the constants
/// `activation` and `gated`.
pub const PRODUCT_DERIVATIVE: Fragment =
    wgsl!("../../shaders/matmul/shared/product_derivative.wgsl");
/// `a_block` of A stored as (rows, inner).
pub const PRODUCT_A_ROWS: Fragment = wgsl!("../../shaders/matmul/shared/product_a_rows.wgsl");
/// `a_block` of A stored as (inner, rows).
pub const PRODUCT_A_COLUMNS: Fragment = wgsl!("../../shaders/matmul/shared/product_a_columns.wgsl");
/// `b_block` of B stored as (inner, cols).
pub const PRODUCT_B_ROWS: Fragment = wgsl!("../../shaders/matmul/shared/product_b_rows.wgsl");
/// `b_block` of B stored as (cols, inner).
pub const PRODUCT_B_COLUMNS: Fragment = wgsl!("../../shaders/matmul/shared/product_b_columns.wgsl");
/// `opening` of sums that begin with zero.
pub const PRODUCT_FROM_ZERO: Fragment = wgsl!("../../shaders/matmul/shared/product_from_zero.wgsl");
/// How many terms a partial sum has.
pub const PRODUCT_PARTIAL: Fragment = wgsl!("../../shaders/matmul/shared/product_partial.wgsl");
/// `ResumedProductParams`, an `opening` and a `store` of sums that go on from dispatch to dispatch.
pub const PRODUCT_RESUMED: Fragment = wgsl!("../../shaders/matmul/shared/product_resumed.wgsl");
/// `multiply`: one tile of C per workgroup, through workgroup memory; wants [`PRODUCT_TILE_64`],
/// [`PRODUCT_TERMS_F32`], [`PRODUCT_FROM_ZERO`] and [`PRODUCT_PARTIAL`].
pub const PRODUCT_TILED: Fragment = wgsl!("../../shaders/matmul/shared/product_tiled.wgsl");
/// `multiply`: one tile of C per workgroup, in registers only; wants [`PRODUCT_FROM_ZERO`]
/// and [`PRODUCT_PARTIAL`].
pub const PRODUCT_DIRECT: Fragment = wgsl!("../../shaders/matmul/shared/product_direct.wgsl");
/// `store_row`: what exists of a quad goes to the kernel's `store`.
pub const PRODUCT_STORE: Fragment = wgsl!("../../shaders/matmul/shared/product_store.wgsl");

/// What one workgroup computes in registers only.
struct DirectTile(Variant);

impl DirectTile {
    const fn count(self, rows: u32, cols: u32, batch: u32) -> u32 {
        let (tile_rows, tile_cols) = match self.0 {
            Variant { subgroups_of_8: true, .. } => (32, 32),
            Variant { large_register_tiles: true, .. } => (64, 32),
            _ => (64, 64),
        };
        rows.div_ceil(tile_rows) * cols.div_ceil(tile_cols) * batch
    }
}

/// What one workgroup of a product of few rows computes: 4 x 4 elements.
struct FewTile;

impl FewTile {
    const fn count(self, rows: u32, cols: u32, batch: u32) -> u32 {
        rows.div_ceil(4) * cols.div_ceil(4) * batch
    }
}

/// A product kernel: the parameters that all have in common, then those of its own.
macro_rules! product {
    (
        $(#[$doc:meta])*
        pub $Kernel:ident, $Params:ident = [$($fragment:expr),+ $(,)?];
        rows of A, B are |$rows:ident, $cols:ident, $inner:ident| $a_row:ident, $b_row:ident;
        tile |$variant:ident| $tile:expr;
        $(overrides { $($overrides:tt)* })?
        own { $($(#[$field_doc:meta])* $field:ident: $field_type:ident),* $(,)? }
        buffers { $($buffers:tt)* }
    ) => {
        kernel! {
            $(#[$doc])*
            pub $Kernel = [$($fragment),+];
            workgroup [64, 1, 1];
            grid |params, $variant| grid($tile.count(params.rows, params.cols, params.batch));
            $(overrides { $($overrides)* })?
            uniform $Params {
                /// Rows of C.
                rows: u32,
                /// Columns of C.
                cols: u32,
                /// Terms of each sum.
                inner: u32,
                /// Products: outer count times `inner_count`.
                batch: u32,
                /// Products that share an outer index; at least 1.
                inner_count: u32,
                /// 0 overwrites C, 1 adds to it.
                accumulate: u32,
                $($(#[$field_doc])* $field: $field_type,)*
                /// Factor on the product.
                alpha: f32,
                /// First quad of A.
                a_offset: u32,
                /// Quads from one stored row of A to the next.
                a_row_stride: u32,
                /// Quads from one outer index to the next in A.
                a_outer_stride: u32,
                /// Quads from one inner group to the next in A.
                a_inner_stride: u32,
                /// Inner indices that share a matrix of A; at least 1.
                a_inner_group: u32,
                /// First quad of B.
                b_offset: u32,
                /// Quads from one stored row of B to the next.
                b_row_stride: u32,
                /// Quads from one outer index to the next in B.
                b_outer_stride: u32,
                /// Quads from one inner group to the next in B.
                b_inner_stride: u32,
                /// Inner indices that share a matrix of B; at least 1.
                b_inner_group: u32,
                /// First quad of C.
                c_offset: u32,
                /// Quads from one row of C to the next.
                c_row_stride: u32,
                /// Quads from one outer index to the next in C.
                c_outer_stride: u32,
                /// Quads from one inner index to the next in C.
                c_inner_stride: u32,
            }
            buffers { $($buffers)* }
        }

        impl $Params {
            /// One product of matrices that fill their buffers; C is overwritten.
            pub const fn dense($rows: u32, $cols: u32, $inner: u32) -> Self {
                Self {
                    rows: $rows,
                    cols: $cols,
                    inner: $inner,
                    batch: 1,
                    inner_count: 1,
                    accumulate: 0,
                    $($field: 0,)*
                    alpha: 1.0,
                    a_offset: 0,
                    a_row_stride: $a_row.div_ceil(4),
                    a_outer_stride: 0,
                    a_inner_stride: 0,
                    a_inner_group: 1,
                    b_offset: 0,
                    b_row_stride: $b_row.div_ceil(4),
                    b_outer_stride: 0,
                    b_inner_stride: 0,
                    b_inner_group: 1,
                    c_offset: 0,
                    c_row_stride: $cols.div_ceil(4),
                    c_outer_stride: 0,
                    c_inner_stride: 0,
                }
            }
        }
    };
}

product! {
    /// C = alpha A·B: the data gradient of a linear layer. Where that, y, with C where it is added to,
    /// is the gradient of what an activation f gave, it can end with f's derivative: C = y f'(z), and
    /// with a gate g and what it was multiplied with, u, side by side in a row of z, C = y u f'(g) in
    /// the columns of g, y f(g) in those of u.
    pub Matmul, MatmulParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT, PRODUCT_DERIVATIVE, PRODUCT_A_ROWS,
        PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_TERMS_F32, PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_TILE_64, PRODUCT_TILED,
        wgsl!("../../shaders/matmul/matmul.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, cols;
    tile |variant| variant.tile();
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`, whose derivative the product ends with; 0
        /// for none.
        activation,
        /// 1 where f is that of a gate: rows of C and of the argument then have twice as many columns,
        /// and what the gates were multiplied with in the second half.
        gated,
    }
    own {}
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// The argument of f, laid out as `c`; any buffer where `activation` is 0.
        Read pre_activation,
        /// (batch, rows, cols), overwritten or added to.
        Write c,
    }
}

product! {
    /// C = f(alpha A·Bᵀ + bias): a linear layer whose weight is stored as (out, in).
    pub MatmulTransposedB, MatmulTransposedBParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT_ACTIVATED, PRODUCT_A_ROWS, PRODUCT_B_COLUMNS,
        PRODUCT_STORE,
        PRODUCT_TERMS_F32, PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_TILE_64, PRODUCT_TILED, wgsl!("../../shaders/matmul/matmul_transposed_b.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, inner;
    tile |variant| variant.tile();
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`; 0 is the identity.
        activation,
    }
    own {
        /// 1 where there is a bias.
        has_bias: u32,
        /// The first quad of the bias.
        bias_offset: u32,
    }
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, cols, inner)
        Read b,
        /// (cols), the same for the whole batch; any buffer where `has_bias` is 0.
        Read bias,
        /// (batch, rows, cols), overwritten or added to.
        Write c,
        /// Laid out as `c`, overwritten with the argument of f where `activation` is not 0; else
        /// any buffer that is bound nowhere else.
        Write pre_activation,
    }
}

product! {
    /// C = alpha Aᵀ·B: the weight gradient of a linear layer.
    pub MatmulTransposedA, MatmulTransposedAParams = [
        QUAD_F32, GRID, PRODUCT, PRODUCT_A_COLUMNS, PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_TERMS_F32, PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_TILE_64, PRODUCT_TILED,
        wgsl!("../../shaders/matmul/matmul_transposed_a.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| rows, cols;
    tile |variant| variant.tile();
    own {}
    buffers {
        /// (batch, inner, rows)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// f32 (batch, rows, cols), overwritten or added to.
        Write c,
    }
}

product! {
    /// [`Matmul`] in registers only.
    pub MatmulDirect, MatmulDirectParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT, PRODUCT_DERIVATIVE, PRODUCT_A_ROWS,
        PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_DIRECT,
        wgsl!("../../shaders/matmul/matmul_direct.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, cols;
    tile |variant| DirectTile(variant);
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`, whose derivative the product ends with; 0
        /// for none.
        activation,
        /// 1 where f is that of a gate: rows of C and of the argument then have twice as many columns,
        /// and what the gates were multiplied with in the second half.
        gated,
    }
    own {}
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// The argument of f, laid out as `c`; any buffer where `activation` is 0.
        Read pre_activation,
        /// (batch, rows, cols), overwritten or added to.
        Write c,
    }
}

product! {
    /// C = f(alpha A·Bᵀ + bias), in registers only: a linear layer whose weight is stored as (out, in).
    pub MatmulTransposedBDirect, MatmulTransposedBDirectParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT_ACTIVATED, PRODUCT_A_ROWS, PRODUCT_B_COLUMNS,
        PRODUCT_STORE,
        PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_DIRECT, wgsl!("../../shaders/matmul/matmul_transposed_b_direct.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, inner;
    tile |variant| DirectTile(variant);
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`; 0 is the identity.
        activation,
    }
    own {
        /// 1 where there is a bias.
        has_bias: u32,
        /// The first quad of the bias.
        bias_offset: u32,
    }
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, cols, inner)
        Read b,
        /// (cols), the same for the whole batch; any buffer where `has_bias` is 0.
        Read bias,
        /// (batch, rows, cols), overwritten or added to.
        Write c,
        /// Laid out as `c`, overwritten with the argument of f where `activation` is not 0; else
        /// any buffer that is bound nowhere else.
        Write pre_activation,
    }
}

product! {
    /// [`MatmulTransposedB`] for few rows: a linear layer of one token or a few. B is read once for
    /// four rows, by lanes that share a sum, so that there are as many workgroups as there are quads
    /// of columns. The order of the sums is another.
    pub MatmulTransposedBFew, MatmulTransposedBFewParams = [
        QUAD_F32, GRID, LANES_64, ACTIVATION, PRODUCT_ACTIVATED, PRODUCT_A_ROWS, PRODUCT_B_COLUMNS,
        PRODUCT_STORE, wgsl!("../../shaders/matmul/matmul_transposed_b_few.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, inner;
    tile |_variant| FewTile;
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`; 0 is the identity.
        activation,
    }
    own {
        /// 1 where there is a bias.
        has_bias: u32,
        /// The first quad of the bias.
        bias_offset: u32,
    }
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, cols, inner)
        Read b,
        /// (cols), the same for the whole batch; any buffer where `has_bias` is 0.
        Read bias,
        /// (batch, rows, cols), overwritten or added to.
        Write c,
        /// Laid out as `c`, overwritten with the argument of f where `activation` is not 0; else
        /// any buffer that is bound nowhere else.
        Write pre_activation,
    }
}

product! {
    /// C = alpha Aᵀ·B, in registers only: the weight gradient of a linear layer.
    pub MatmulTransposedADirect, MatmulTransposedADirectParams = [
        QUAD_F32, GRID, PRODUCT, PRODUCT_A_COLUMNS, PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_FROM_ZERO, PRODUCT_PARTIAL, PRODUCT_DIRECT,
        wgsl!("../../shaders/matmul/matmul_transposed_a_direct.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| rows, cols;
    tile |variant| DirectTile(variant);
    own {}
    buffers {
        /// (batch, inner, rows)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// f32 (batch, rows, cols), overwritten or added to.
        Write c,
    }
}

product! {
    /// C = alpha A·B in several dispatches, each with its part of the inner dimension: the data
    /// gradient of a linear layer whose weight no binding holds. The sums go on where the dispatch
    /// before left them, in the order of one product, so where parts end at a multiple of 256 the
    /// result has the bits of [`Matmul`]. Where there are several, alpha is 1.
    pub MatmulResumed, MatmulResumedParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT_RESUMED, PRODUCT_DERIVATIVE, PRODUCT_A_ROWS,
        PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_PARTIAL,
        PRODUCT_TERMS_F32, PRODUCT_TILE_64, PRODUCT_TILED, wgsl!("../../shaders/matmul/matmul_resumed.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, cols;
    tile |variant| variant.tile();
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`, whose derivative the product ends with; 0
        /// for none.
        activation,
        /// 1 where f is that of a gate: rows of C and of the argument then have twice as many columns,
        /// and what the gates were multiplied with in the second half.
        gated,
    }
    own {
        /// 1 goes on from `sums`, 0 begins with zero.
        resume: u32,
        /// 1 leaves `sums` to the next dispatch and `c` alone.
        unfinished: u32,
    }
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// The argument of f, laid out as `c`; any buffer where `activation` is 0.
        Read pre_activation,
        /// f32, laid out as `c`; any buffer that is bound nowhere else for a single dispatch.
        Write sums,
        /// (batch, rows, cols), overwritten or added to by the last dispatch.
        Write c,
    }
}

product! {
    /// [`MatmulResumed`] in registers only, with the bits of [`MatmulDirect`].
    pub MatmulResumedDirect, MatmulResumedDirectParams = [
        QUAD_F32, GRID, ACTIVATION, PRODUCT_RESUMED, PRODUCT_DERIVATIVE, PRODUCT_A_ROWS,
        PRODUCT_B_ROWS, PRODUCT_STORE,
        PRODUCT_PARTIAL,
        PRODUCT_DIRECT, wgsl!("../../shaders/matmul/matmul_resumed_direct.wgsl"),
    ];
    rows of A, B are |rows, cols, inner| inner, cols;
    tile |variant| DirectTile(variant);
    overrides {
        /// f, by the numbers of `shared/activation.wgsl`, whose derivative the product ends with; 0
        /// for none.
        activation,
        /// 1 where f is that of a gate: rows of C and of the argument then have twice as many columns,
        /// and what the gates were multiplied with in the second half.
        gated,
    }
    own {
        /// 1 goes on from `sums`, 0 begins with zero.
        resume: u32,
        /// 1 leaves `sums` to the next dispatch and `c` alone.
        unfinished: u32,
    }
    buffers {
        /// (batch, rows, inner)
        Read a,
        /// (batch, inner, cols)
        Read b,
        /// The argument of f, laid out as `c`; any buffer where `activation` is 0.
        Read pre_activation,
        /// f32, laid out as `c`; any buffer that is bound nowhere else for a single dispatch.
        Write sums,
        /// (batch, rows, cols), overwritten or added to by the last dispatch.
        Write c,
    }
}

macro_rules! plain {
    ($Kernel:ident, $Params:ident) => {
        impl<'a> $Kernel<'a> {
            /// The product of A and B into C by itself, with no activation's derivative at its end.
            pub fn plain(params: $Params, [a, b, c]: [wgpu::BufferBinding<'a>; 3]) -> Self {
                let (activation, gated, pre_activation) = (0, 0, a.clone());
                Self { params, activation, gated, a, b, pre_activation, c }
            }
        }
    };
}

plain!(Matmul, MatmulParams);
plain!(MatmulDirect, MatmulDirectParams);

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    Matmul::DECLARATION,
    MatmulTransposedB::DECLARATION,
    MatmulTransposedBFew::DECLARATION,
    MatmulTransposedA::DECLARATION,
    MatmulDirect::DECLARATION,
    MatmulTransposedBDirect::DECLARATION,
    MatmulTransposedADirect::DECLARATION,
    MatmulResumed::DECLARATION,
    MatmulResumedDirect::DECLARATION,
];
