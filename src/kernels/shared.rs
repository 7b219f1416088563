//! WGSL that several kernels share, for use in your own [`kernel!`](crate::kernel!) as well.

use crate::kernel::Fragment;
use crate::wgsl;

/// `Quad`, `unpack`, `pack` over f32 storage.
pub const QUAD_F32: Fragment = wgsl!("../../shaders/shared/quad_f32.wgsl");
/// `Quad`, `unpack`, `pack` over f16 storage.
pub const QUAD_F16: Fragment = wgsl!("../../shaders/shared/quad_f16.wgsl");
/// `Quad`, `unpack`, `pack` over bf16 storage; wants [`BF16`].
pub const QUAD_BF16: Fragment = wgsl!("../../shaders/shared/quad_bf16.wgsl");
/// `Weight`, `load_weight`, `store_weight`, `weight_value`, `set_weight` over f32 storage; wants
/// [`STEP_STATE`], and a buffer `weight` that is read and written.
pub const WEIGHT_F32: Fragment = wgsl!("../../shaders/shared/weight_f32.wgsl");
/// `flat_group`: the index of a workgroup in a folded grid.
pub const GRID: Fragment = wgsl!("../../shaders/shared/grid.wgsl");
/// `LANES` of a kernel with 64 invocations in a workgroup.
pub const LANES_64: Fragment = wgsl!("../../shaders/shared/lanes_64.wgsl");
/// `LANES` of a kernel with one workgroup per row, `@workgroup_size(LANES)`: where
/// [`few_lanes`](crate::variant::Variant::few_lanes) is set, [`ROW_LANES_4`] stands for it.
pub const ROW_LANES_64: Fragment = wgsl!("../../shaders/shared/row_lanes_64.wgsl");
/// `LANES` of a kernel with one workgroup per row, on a CPU.
pub const ROW_LANES_4: Fragment = wgsl!("../../shaders/shared/row_lanes_4.wgsl");
/// `workgroup_sum`, `workgroup_max` and their u32 twins; wants [`LANES_64`] or [`ROW_LANES_64`].
pub const REDUCE: Fragment = wgsl!("../../shaders/shared/reduce.wgsl");
/// Tests on bits and functions that WGSL does not give accurately enough.
pub const NUMERICS: Fragment = wgsl!("../../shaders/shared/numerics.wgsl");
/// `StepInput`, `StepState` and the other device structs of [`step`](crate::step).
pub const STEP_STATE: Fragment = wgsl!("../../shaders/shared/step_state.wgsl");
/// Magnitudes outside f32's range: `Wide`, `widen`, `narrow`, `quotient`, `power_of_two`.
pub const WIDE: Fragment = wgsl!("../../shaders/shared/wide.wgsl");
/// `combine` of scan partials of squares; wants [`WIDE`] and [`STEP_STATE`].
pub const SCAN_PARTIAL: Fragment = wgsl!("../../shaders/shared/scan_partial.wgsl");
/// `open_step`: norm and counts into the state; wants [`STEP_STATE`] and [`WIDE`].
pub const OPEN_STEP: Fragment = wgsl!("../../shaders/shared/open_step.wgsl");
/// `back_off`, `grow`: the next loss scale; wants [`STEP_STATE`].
pub const LOSS_SCALE: Fragment = wgsl!("../../shaders/shared/loss_scale.wgsl");
/// `clipped` and `remembered`: gradient and moments as optimizers see them; wants [`STEP_STATE`].
pub const CLIPPED: Fragment = wgsl!("../../shaders/shared/clipped.wgsl");
/// Activation functions on `vec4<f32>`, their derivatives, accurate tanh and erf.
pub const ACTIVATION: Fragment = wgsl!("../../shaders/shared/activation.wgsl");
/// Threefry-4x32, uniform and normal numbers.
pub const RANDOM: Fragment = wgsl!("../../shaders/shared/random.wgsl");
/// `row_quads`, `is_element`, `masked`, `sum4`: rows of quads and their padding.
pub const ROW: Fragment = wgsl!("../../shaders/shared/row.wgsl");
/// `workgroup_sum_vec4`; wants [`LANES_64`] or [`ROW_LANES_64`].
pub const REDUCE_VEC4: Fragment = wgsl!("../../shaders/shared/reduce_vec4.wgsl");
/// `tile_width`, `fold_tile`: column sums by workgroups of 64.
pub const COLUMN_TILE: Fragment = wgsl!("../../shaders/shared/column_tile.wgsl");
/// `log_one_plus`, `one_minus_exp`, `exp4_nonpositive`, `nan_from`; joined after [`NUMERICS`].
pub const EXP_LOG: Fragment = wgsl!("../../shaders/shared/exp_log.wgsl");
/// `count_exponentials`, `workgroup_log_sum_exp`; joined after [`ROW`], [`REDUCE`],
/// [`REDUCE_VEC4`], [`NUMERICS`] and [`EXP_LOG`].
pub const LOG_SUM_EXP: Fragment = wgsl!("../../shaders/shared/log_sum_exp.wgsl");
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
/// `opening` of sums that begin with zero.
pub const PRODUCT_FROM_ZERO: Fragment = wgsl!("../../shaders/shared/product_from_zero.wgsl");
/// `ResumedProductParams`, an `opening` and a `store` of sums that go on from dispatch to dispatch.
pub const PRODUCT_RESUMED: Fragment = wgsl!("../../shaders/shared/product_resumed.wgsl");
/// `multiply`: one tile of C per workgroup, through workgroup memory; wants
/// [`PRODUCT_TERMS_F32`] and [`PRODUCT_FROM_ZERO`].
pub const PRODUCT_TILED: Fragment = wgsl!("../../shaders/shared/product_tiled.wgsl");
/// What [`PRODUCT_TILED`] multiplies and adds up: f32.
pub const PRODUCT_TERMS_F32: Fragment = wgsl!("../../shaders/shared/product_terms_f32.wgsl");
/// What [`PRODUCT_TILED`] multiplies and adds up: f16, with sums of 16 products added up in f32.
pub const PRODUCT_TERMS_F16: Fragment = wgsl!("../../shaders/shared/product_terms_f16.wgsl");
/// `multiply`: one tile of C per workgroup, in registers only; wants [`PRODUCT_FROM_ZERO`].
pub const PRODUCT_DIRECT: Fragment = wgsl!("../../shaders/shared/product_direct.wgsl");
/// `store_blocks`: what exists of four blocks goes to the kernel's `store`.
pub const PRODUCT_STORE: Fragment = wgsl!("../../shaders/shared/product_store.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 4 quads.
pub const HEAD_QUADS_4: Fragment = wgsl!("../../shaders/shared/head_quads_4.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 8 quads.
pub const HEAD_QUADS_8: Fragment = wgsl!("../../shaders/shared/head_quads_8.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 16 quads.
pub const HEAD_QUADS_16: Fragment = wgsl!("../../shaders/shared/head_quads_16.wgsl");
/// `MAX_HEAD_QUADS` of any head; as [`head_quads`](crate::variant::Variant::head_quads) says, the
/// others stand for it.
pub const HEAD_QUADS_32: Fragment = wgsl!("../../shaders/shared/head_quads_32.wgsl");
/// `AttentionParams`, the layout of heads, the transform of scores; wants [`HEAD_QUADS_32`].
pub const ATTENTION: Fragment = wgsl!("../../shaders/shared/attention.wgsl");
/// Two tiles of rows in workgroup memory and their products with one invocation's row.
pub const ATTENTION_TILE: Fragment = wgsl!("../../shaders/shared/attention_tile.wgsl");
/// `fold`: the scan partials of a workgroup, by the `combine` of [`SCAN_PARTIAL`] or
/// [`POWER_PARTIAL`].
pub const SCAN_FOLD: Fragment = wgsl!("../../shaders/shared/scan_fold.wgsl");
/// `magnitude`, `survey`: a chunk's largest element and its counts; wants [`STEP_STATE`].
pub const CHUNK_SCAN: Fragment = wgsl!("../../shaders/shared/chunk_scan.wgsl");
/// `log2_bits`, `exp2_fraction`, `power_of_ratio`: powers that lose about one unit of 2^-24.
pub const POWER: Fragment = wgsl!("../../shaders/shared/power.wgsl");
/// `combine` of scan partials of p-th powers; wants [`WIDE`], [`STEP_STATE`] and [`POWER`].
pub const POWER_PARTIAL: Fragment = wgsl!("../../shaders/shared/power_partial.wgsl");
/// `ExactSum` and its carries.
pub const EXACT_SUM: Fragment = wgsl!("../../shaders/shared/exact_sum.wgsl");
/// `root`: an exact sum's, to the nearest 24 bits; wants [`WIDE`] and [`EXACT_SUM`].
pub const EXACT_ROOT: Fragment = wgsl!("../../shaders/shared/exact_root.wgsl");
/// `TensorNorm` and `NONFINITE_EXPONENT`.
pub const TENSOR_NORM: Fragment = wgsl!("../../shaders/shared/tensor_norm.wgsl");
/// `Segment` and `part_index`: which parts a fold joins.
pub const SEGMENT: Fragment = wgsl!("../../shaders/shared/segment.wgsl");
/// Reasons and events of policies, norms as they remember them; wants [`STEP_STATE`] and [`WIDE`].
pub const POLICY: Fragment = wgsl!("../../shaders/shared/policy.wgsl");
/// `tensor_norm`, `workgroup_worst`: norms of tensors and the one furthest out of line; wants
/// [`STEP_STATE`], [`WIDE`], [`TENSOR_NORM`] and [`REDUCE`].
pub const WORST_TENSOR: Fragment = wgsl!("../../shaders/shared/worst_tensor.wgsl");
/// `SpikeMemory`, windows and z-scores; joined after [`POLICY`] and [`WORST_TENSOR`].
pub const SPIKE_MEMORY: Fragment = wgsl!("../../shaders/shared/spike_memory.wgsl");
/// `RollbackMemory`, `SnapshotRing`.
pub const SNAPSHOT: Fragment = wgsl!("../../shaders/shared/snapshot.wgsl");
/// `head_width`, `head_sum`: the heads of a row, side by side in a workgroup of 64.
pub const HEAD_NORM: Fragment = wgsl!("../../shaders/shared/head_norm.wgsl");
/// `Summary` of rows: a largest number, a sum, and whether any was not finite; joined after
/// [`REDUCE`] and [`NUMERICS`].
pub const SUMMARY: Fragment = wgsl!("../../shaders/shared/summary.wgsl");
/// `join_largest`, `join_sums` of update partials; wants [`STEP_STATE`] and [`REDUCE`].
pub const UPDATE_PARTIAL: Fragment = wgsl!("../../shaders/shared/update_partial.wgsl");
/// `Moments`, `advance_moments`, `corrected_root`: Adam's moments in the buffers `m` and `v`; wants
/// [`CLIPPED`].
pub const ADAM_MOMENTS: Fragment = wgsl!("../../shaders/shared/adam_moments.wgsl");
/// `agrees`: where two vectors have the same sign.
pub const AGREES: Fragment = wgsl!("../../shaders/shared/agrees.wgsl");
/// `TensorRange`: which partial sums are those of a tensor.
pub const TENSOR_RANGE: Fragment = wgsl!("../../shaders/shared/tensor_range.wgsl");
/// `FactoredTensor` and what Adafactor keeps of it; wants [`CLIPPED`] and [`POWER`].
pub const FACTORED: Fragment = wgsl!("../../shaders/shared/factored.wgsl");
/// `normalized` and `vector_variance`: Adafactor's update before it is bounded; wants [`FACTORED`].
pub const ADAFACTOR_UPDATE: Fragment = wgsl!("../../shaders/shared/adafactor_update.wgsl");
/// `unpack_bf16`, `pack_bf16`, `round_bf16`, `nan_bits`: bf16 as integers.
pub const BF16: Fragment = wgsl!("../../shaders/shared/bf16.wgsl");
/// [`WEIGHT_F32`]'s functions over bf16 with stochastic rounding; wants [`BF16`] and [`RANDOM`] too.
pub const WEIGHT_BF16_STOCHASTIC: Fragment =
    wgsl!("../../shaders/shared/weight_bf16_stochastic.wgsl");
/// [`WEIGHT_F32`]'s functions over bf16 with Kahan compensation; wants [`BF16`] too.
pub const WEIGHT_BF16_KAHAN: Fragment = wgsl!("../../shaders/shared/weight_bf16_kahan.wgsl");
/// [`WEIGHT_F32`]'s functions over f32 split in two halves; wants [`BF16`] too.
pub const WEIGHT_BF16_SPLIT: Fragment = wgsl!("../../shaders/shared/weight_bf16_split.wgsl");
