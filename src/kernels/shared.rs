//! WGSL that several kernels share, for use in your own [`kernel!`](crate::kernel!) as well.

use crate::kernel::Fragment;
use crate::wgsl;

/// `Quad`, `unpack`, `pack` over f32 storage.
pub const QUAD_F32: Fragment = wgsl!("../../shaders/shared/quad_f32.wgsl");
/// `flat_group`: the index of a workgroup in a folded grid.
pub const GRID: Fragment = wgsl!("../../shaders/shared/grid.wgsl");
/// `workgroup_sum`, `workgroup_max` and their u32 twins over 64 invocations.
pub const REDUCE: Fragment = wgsl!("../../shaders/shared/reduce.wgsl");
/// Tests on bits and functions that WGSL does not give accurately enough.
pub const NUMERICS: Fragment = wgsl!("../../shaders/shared/numerics.wgsl");
/// `StepInput`, `StepState` and the other device structs of [`step`](crate::step).
pub const STEP_STATE: Fragment = wgsl!("../../shaders/shared/step_state.wgsl");
/// Activation functions, their derivatives, an accurate tanh and erf.
pub const ACTIVATION: Fragment = wgsl!("../../shaders/shared/activation.wgsl");
/// `ProductParams` of a batched matrix product.
pub const PRODUCT: Fragment = wgsl!("../../shaders/shared/product.wgsl");
/// `ActivatedProductParams` and a `store` that adds a bias and applies an activation.
pub const PRODUCT_ACTIVATED: Fragment = wgsl!("../../shaders/shared/product_activated.wgsl");
/// `a_block` of A stored as (rows, inner).
pub const PRODUCT_A_ROWS: Fragment = wgsl!("../../shaders/shared/product_a_rows.wgsl");
/// `a_block` of A stored as (inner, rows).
pub const PRODUCT_A_COLUMNS: Fragment = wgsl!("../../shaders/shared/product_a_columns.wgsl");
/// `b_block` of B stored as (inner, cols).
pub const PRODUCT_B_ROWS: Fragment = wgsl!("../../shaders/shared/product_b_rows.wgsl");
/// `b_block` of B stored as (cols, inner).
pub const PRODUCT_B_COLUMNS: Fragment = wgsl!("../../shaders/shared/product_b_columns.wgsl");
/// `multiply`: one tile of C per workgroup, through workgroup memory.
pub const PRODUCT_TILED: Fragment = wgsl!("../../shaders/shared/product_tiled.wgsl");
/// `multiply`: one tile of C per workgroup, in registers only.
pub const PRODUCT_DIRECT: Fragment = wgsl!("../../shaders/shared/product_direct.wgsl");
/// `store_blocks`: what exists of four blocks goes to the kernel's `store`.
pub const PRODUCT_STORE: Fragment = wgsl!("../../shaders/shared/product_store.wgsl");
/// `AttentionParams`, the layout of heads, the transform of scores.
pub const ATTENTION: Fragment = wgsl!("../../shaders/shared/attention.wgsl");
/// Two tiles of rows in workgroup memory and their products with one invocation's row.
pub const ATTENTION_TILE: Fragment = wgsl!("../../shaders/shared/attention_tile.wgsl");
