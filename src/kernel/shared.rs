//! WGSL that several kernels share, for use in your own [`kernel!`](crate::kernel!) as well.

use super::fragment::Fragment;
use crate::wgsl;

/// `Quad`, `unpack`, `pack` over f32 storage.
pub const QUAD_F32: Fragment = wgsl!("../../shaders/shared/quad_f32.wgsl");
/// [`QUAD_F32`]'s functions over words of 64 bits, which stands for it where
/// [`words_of_64`](crate::kernel::Variant::words_of_64) is set.
pub const QUAD_F32_WORDS: Fragment = wgsl!("../../shaders/shared/quad_f32_words.wgsl");
/// `unpack_f16`: four numbers of f16 by integers.
pub const UNPACK_F16: Fragment = wgsl!("../../shaders/shared/unpack_f16.wgsl");
/// `unpack_f16` by the device's own conversion, which stands for [`UNPACK_F16`] where
/// [`half_conversions`](crate::kernel::Variant::half_conversions) says so.
pub const UNPACK_F16_CONVERTED: Fragment = wgsl!("../../shaders/shared/unpack_f16_converted.wgsl");
/// `round_f16`: four numbers as f16 by integers.
pub const ROUND_F16: Fragment = wgsl!("../../shaders/shared/round_f16.wgsl");
/// `pack_f16`: four numbers as f16; wants [`ROUND_F16`].
pub const PACK_F16: Fragment = wgsl!("../../shaders/shared/pack_f16.wgsl");
/// `pack_f16` by the device's own conversion, which stands for [`PACK_F16`] where
/// [`half_conversions`](crate::kernel::Variant::half_conversions) says so; wants [`ROUND_F16`] too.
pub const PACK_F16_CONVERTED: Fragment = wgsl!("../../shaders/shared/pack_f16_converted.wgsl");
/// `Quad`, `unpack`, `pack` over f16 storage; wants [`UNPACK_F16`] and [`PACK_F16`].
pub const QUAD_F16: Fragment = wgsl!("../../shaders/shared/quad_f16.wgsl");
/// `Quad`, `unpack`, `pack` over bf16 storage; wants [`BF16`].
pub const QUAD_BF16: Fragment = wgsl!("../../shaders/shared/quad_bf16.wgsl");
/// `Weight`, `load_weight`, `store_weight`, `weight_value`, `set_weight` over f32 storage; wants
/// [`STEP_STATE`], and a buffer `weight` that is read and written.
pub const WEIGHT_F32: Fragment = wgsl!("../../shaders/shared/weight_f32.wgsl");
/// `dequantize` of [`BlockFormat::Q8_0`](crate::kernel::BlockFormat::Q8_0); wants [`UNPACK_F16`].
pub const BLOCKS_Q8_0: Fragment = wgsl!("../../shaders/shared/blocks_q8_0.wgsl");
/// `dequantize` of [`BlockFormat::Q4_0`](crate::kernel::BlockFormat::Q4_0); wants [`UNPACK_F16`].
pub const BLOCKS_Q4_0: Fragment = wgsl!("../../shaders/shared/blocks_q4_0.wgsl");
/// `dequantize` of [`BlockFormat::Q4_1`](crate::kernel::BlockFormat::Q4_1); wants [`UNPACK_F16`].
pub const BLOCKS_Q4_1: Fragment = wgsl!("../../shaders/shared/blocks_q4_1.wgsl");
/// `b_quads`: quads of rows of B in blocks; wants one of [`BLOCKS_Q8_0`] and its like.
pub const PRODUCT_B_BLOCKS: Fragment = wgsl!("../../shaders/matmul/shared/product_b_blocks.wgsl");
/// What stands for [`PRODUCT_B_ROWS`](crate::kernels::PRODUCT_B_ROWS) where
/// [`blocks`](crate::kernel::Variant::blocks) is set; wants [`PRODUCT_B_BLOCKS`].
pub const PRODUCT_B_ROWS_BLOCKS: Fragment =
    wgsl!("../../shaders/matmul/shared/product_b_rows_blocks.wgsl");
/// What stands for [`PRODUCT_B_COLUMNS`](crate::kernels::PRODUCT_B_COLUMNS) where
/// [`blocks`](crate::kernel::Variant::blocks) is set; wants [`PRODUCT_B_BLOCKS`].
pub const PRODUCT_B_COLUMNS_BLOCKS: Fragment =
    wgsl!("../../shaders/matmul/shared/product_b_columns_blocks.wgsl");
/// `table_quad`: a quad of a row of a table; [`TABLE_ROWS_BLOCKS`] stands for it where
/// [`blocks`](crate::kernel::Variant::blocks) is set.
pub const TABLE_ROWS: Fragment = wgsl!("../../shaders/embedding/shared/table_rows.wgsl");
/// `table_quad` of blocks; wants one of [`BLOCKS_Q8_0`] and its like.
pub const TABLE_ROWS_BLOCKS: Fragment =
    wgsl!("../../shaders/embedding/shared/table_rows_blocks.wgsl");
/// `weight_quad`: a quad of a row of a weight; [`WEIGHT_ROWS_BLOCKS`] stands for it where
/// [`blocks`](crate::kernel::Variant::blocks) is set.
pub const WEIGHT_ROWS: Fragment = wgsl!("../../shaders/normalization/shared/weight_rows.wgsl");
/// `weight_quad` of blocks; wants one of [`BLOCKS_Q8_0`] and its like.
pub const WEIGHT_ROWS_BLOCKS: Fragment =
    wgsl!("../../shaders/normalization/shared/weight_rows_blocks.wgsl");
/// `flat_group`: the index of a workgroup in a folded grid.
pub const GRID: Fragment = wgsl!("../../shaders/shared/grid.wgsl");
/// `LANES` of a kernel with 64 invocations in a workgroup.
pub const LANES_64: Fragment = wgsl!("../../shaders/shared/lanes_64.wgsl");
/// `LANES` of a kernel with one workgroup per row, `@workgroup_size(LANES)`: where
/// [`few_lanes`](crate::kernel::Variant::few_lanes) is set, [`ROW_LANES_4`] stands for it.
pub const ROW_LANES_64: Fragment = wgsl!("../../shaders/shared/row_lanes_64.wgsl");
/// The same with 256 invocations, for kernels whose rows are long and few.
pub const ROW_LANES_256: Fragment = wgsl!("../../shaders/shared/row_lanes_256.wgsl");
/// `LANES` of a kernel with one workgroup per row, on a CPU.
pub const ROW_LANES_4: Fragment = wgsl!("../../shaders/shared/row_lanes_4.wgsl");
/// `workgroup_sum`, `workgroup_max` and their u32 twins; wants [`LANES_64`] or [`ROW_LANES_64`].
pub const REDUCE: Fragment = wgsl!("../../shaders/shared/reduce.wgsl");
/// What stands for [`REDUCE`] where [`few_lanes`](crate::kernel::Variant::few_lanes) and
/// [`subgroups_of_8`](crate::kernel::Variant::subgroups_of_8) are set; the sums have the same bits.
pub const REDUCE_SUBGROUP: Fragment = wgsl!("../../shaders/shared/reduce_subgroup.wgsl");
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
/// `clipped` and `remembered`: gradient and moments as optimizers see them; wants [`STEP_STATE`].
pub const CLIPPED: Fragment = wgsl!("../../shaders/optimizer/shared/clipped.wgsl");
/// Activation functions on `vec4<f32>`, their derivatives, accurate tanh and erf.
pub const ACTIVATION: Fragment = wgsl!("../../shaders/shared/activation.wgsl");
/// Threefry-4x32, uniform and normal numbers.
pub const RANDOM: Fragment = wgsl!("../../shaders/shared/random.wgsl");
/// `row_quads`, `is_element`, `masked`, `sum4`: rows of quads and their padding.
pub const ROW: Fragment = wgsl!("../../shaders/shared/row.wgsl");
/// `workgroup_sum_vec4`; wants [`LANES_64`] or [`ROW_LANES_64`].
pub const REDUCE_VEC4: Fragment = wgsl!("../../shaders/shared/reduce_vec4.wgsl");
/// What stands for [`REDUCE_VEC4`] where [`REDUCE_SUBGROUP`] stands for [`REDUCE`].
pub const REDUCE_VEC4_SUBGROUP: Fragment = wgsl!("../../shaders/shared/reduce_vec4_subgroup.wgsl");
/// `tile_width`, `fold_tile`: column sums by workgroups of 64.
pub const COLUMN_TILE: Fragment = wgsl!("../../shaders/shared/column_tile.wgsl");
/// `log_one_plus`, `one_minus_exp`, `exp4_nonpositive`, `nan_from`; joined after [`NUMERICS`].
pub const EXP_LOG: Fragment = wgsl!("../../shaders/shared/exp_log.wgsl");
/// `count_exponentials`, `workgroup_log_sum_exp`; joined after [`ROW`], [`REDUCE`],
/// [`REDUCE_VEC4`], [`NUMERICS`] and [`EXP_LOG`].
pub const LOG_SUM_EXP: Fragment = wgsl!("../../shaders/shared/log_sum_exp.wgsl");
/// The tile of a matrix product; [`PRODUCT_TILE_128`] or [`PRODUCT_TILE_32`] stand for it where
/// [`product_tile`](crate::kernel::Variant::product_tile) says so.
pub const PRODUCT_TILE_64: Fragment = wgsl!("../../shaders/matmul/shared/product_tile_64.wgsl");
/// A larger tile.
pub const PRODUCT_TILE_128: Fragment = wgsl!("../../shaders/matmul/shared/product_tile_128.wgsl");
/// A smaller one.
pub const PRODUCT_TILE_32: Fragment = wgsl!("../../shaders/matmul/shared/product_tile_32.wgsl");
/// `multiply` by cooperative matrices, which stands for
/// [`PRODUCT_TILED`](crate::kernels::PRODUCT_TILED) where
/// [`cooperative`](crate::kernel::Variant::cooperative) is set; wants one of
/// [`COOPERATIVE_F16_16`] and its like.
pub const PRODUCT_COOPERATIVE: Fragment =
    wgsl!("../../shaders/matmul/shared/product_cooperative.wgsl");
/// Matrices of 16 x 16 with operands in f16, and how they lie in workgroup memory.
pub const COOPERATIVE_F16_16: Fragment =
    wgsl!("../../shaders/matmul/shared/cooperative_f16_16.wgsl");
/// Matrices of 8 x 8 with operands in f16, and how they lie in workgroup memory.
pub const COOPERATIVE_F16_8: Fragment = wgsl!("../../shaders/matmul/shared/cooperative_f16_8.wgsl");
/// Matrices of 8 x 8 with operands in f32, and how they lie in workgroup memory.
pub const COOPERATIVE_F32_8: Fragment = wgsl!("../../shaders/matmul/shared/cooperative_f32_8.wgsl");
/// `multiply` by subgroups of 8, which stands for
/// [`PRODUCT_DIRECT`](crate::kernels::PRODUCT_DIRECT) where
/// [`subgroups_of_8`](crate::kernel::Variant::subgroups_of_8) is set; the sums have the same bits.
pub const PRODUCT_SUBGROUP: Fragment = wgsl!("../../shaders/matmul/shared/product_subgroup.wgsl");
/// `multiply` with 16 x 16 elements per invocation, which stands for
/// [`PRODUCT_DIRECT`](crate::kernels::PRODUCT_DIRECT) where
/// [`large_register_tiles`](crate::kernel::Variant::large_register_tiles) is set; the sums have the
/// same bits.
pub const PRODUCT_DIRECT_LARGE: Fragment =
    wgsl!("../../shaders/matmul/shared/product_direct_large.wgsl");
/// What stands for [`ATTENTION_TILE`](crate::kernels::ATTENTION_TILE) by subgroups of 8, beside
/// [`ATTENTION_SUBGROUP_8`] or [`ATTENTION_SUBGROUP_WIDE`]; the sums have the same bits.
pub const ATTENTION_SUBGROUP: Fragment =
    wgsl!("../../shaders/attention/shared/attention_subgroup.wgsl");
/// The tiles of heads with at most 8 quads; wants [`ATTENTION_SUBGROUP`].
pub const ATTENTION_SUBGROUP_8: Fragment =
    wgsl!("../../shaders/attention/shared/attention_subgroup_8.wgsl");
/// The tiles of wider heads; wants [`ATTENTION_SUBGROUP`].
pub const ATTENTION_SUBGROUP_WIDE: Fragment =
    wgsl!("../../shaders/attention/shared/attention_subgroup_wide.wgsl");
/// What stands for [`ATTENTION_STATISTICS`](crate::kernels::ATTENTION_STATISTICS) by subgroups
/// of 8.
pub const ATTENTION_STATISTICS_SUBGROUP: Fragment =
    wgsl!("../../shaders/attention/shared/attention_statistics_subgroup.wgsl");
/// What [`PRODUCT_TILED`](crate::kernels::PRODUCT_TILED) multiplies and adds up: f32.
pub const PRODUCT_TERMS_F32: Fragment = wgsl!("../../shaders/shared/product_terms_f32.wgsl");
/// What [`PRODUCT_TILED`](crate::kernels::PRODUCT_TILED) multiplies and adds up: f16, with sums of
/// 16 products added up in f32.
pub const PRODUCT_TERMS_F16: Fragment = wgsl!("../../shaders/shared/product_terms_f16.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 4 quads.
pub const HEAD_QUADS_4: Fragment = wgsl!("../../shaders/shared/head_quads_4.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 8 quads.
pub const HEAD_QUADS_8: Fragment = wgsl!("../../shaders/shared/head_quads_8.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 16 quads.
pub const HEAD_QUADS_16: Fragment = wgsl!("../../shaders/shared/head_quads_16.wgsl");
/// `MAX_HEAD_QUADS` of heads with at most 32 quads.
pub const HEAD_QUADS_32: Fragment = wgsl!("../../shaders/shared/head_quads_32.wgsl");
/// `MAX_HEAD_QUADS` of any head; as [`head_quads`](crate::kernel::Variant::head_quads) says, the
/// others stand for it.
pub const HEAD_QUADS_64: Fragment = wgsl!("../../shaders/shared/head_quads_64.wgsl");
/// How [`SCAN_FOLD`] joins 64 parts by as many invocations: where
/// [`few_lanes`](crate::kernel::Variant::few_lanes) is set, [`FOLD_8_FEW`] stands for it.
pub const FOLD_8: Fragment = wgsl!("../../shaders/shared/fold_8.wgsl");
/// The same by workgroups of 4, on a CPU, with the same bits.
pub const FOLD_8_FEW: Fragment = wgsl!("../../shaders/shared/fold_8_few.wgsl");
/// How [`SCAN_FOLD`] joins 256 parts by as many invocations: where
/// [`few_lanes`](crate::kernel::Variant::few_lanes) is set, [`FOLD_16_FEW`] stands for it.
pub const FOLD_16: Fragment = wgsl!("../../shaders/shared/fold_16.wgsl");
/// The same by workgroups of 4, on a CPU, with the same bits.
pub const FOLD_16_FEW: Fragment = wgsl!("../../shaders/shared/fold_16_few.wgsl");
/// `fold`, `fold_columns`: the scan partials of a workgroup, by the `combine` of [`SCAN_PARTIAL`] or
/// [`POWER_PARTIAL`](crate::kernels::POWER_PARTIAL).
pub const SCAN_FOLD: Fragment = wgsl!("../../shaders/shared/scan_fold.wgsl");
/// `log2_bits`, `exp2_fraction`, `power_of_ratio`: powers that lose about one unit of 2^-24.
pub const POWER: Fragment = wgsl!("../../shaders/shared/power.wgsl");
/// `TensorNorm` and `NONFINITE_EXPONENT`.
pub const TENSOR_NORM: Fragment = wgsl!("../../shaders/shared/tensor_norm.wgsl");
/// What [`update_rule!`](crate::update_rule!) puts around a rule: bindings, loop, verdict; wants
/// [`STEP_STATE`], [`GRID`], [`CLIPPED`] and [`WEIGHT_F32`].
pub const UPDATE_FRAME: Fragment = wgsl!("../../shaders/optimizer/shared/update_frame.wgsl");
/// The same with barriers, for what is kept in blocks; wants [`MOMENT_CODES`] too.
pub const UPDATE_FRAME_BLOCKS: Fragment =
    wgsl!("../../shaders/optimizer/shared/update_frame_blocks.wgsl");
/// `Moments`, `corrected_root`: what Adam makes of its moments; wants [`UPDATE_FRAME`].
pub const ADAM_ROOT: Fragment = wgsl!("../../shaders/optimizer/shared/adam_root.wgsl");
/// `advance_moments`: Adam's moments in the buffers `m` and `v`; wants [`ADAM_ROOT`].
pub const ADAM_MOMENTS: Fragment = wgsl!("../../shaders/optimizer/shared/adam_moments.wgsl");
/// [`ADAM_MOMENTS`] over bf16; wants [`MOMENT_BF16`] too.
pub const ADAM_MOMENTS_BF16: Fragment =
    wgsl!("../../shaders/optimizer/shared/adam_moments_bf16.wgsl");
/// [`ADAM_MOMENTS`] over codes of 8 bits; wants [`MOMENT_CODES`] too.
pub const ADAM_MOMENTS_BLOCKS: Fragment =
    wgsl!("../../shaders/optimizer/shared/adam_moments_blocks.wgsl");
/// `moment_draws`: what moments are rounded by; wants [`BF16`] and [`RANDOM`].
pub const MOMENT_DRAWS: Fragment = wgsl!("../../shaders/optimizer/shared/moment_draws.wgsl");
/// `load_moment`, `round_moment`: moments as bf16; wants [`BF16`].
pub const MOMENT_BF16: Fragment = wgsl!("../../shaders/optimizer/shared/moment_bf16.wgsl");
/// Moments as codes of 8 bits, in blocks with a scale each.
pub const MOMENT_CODES: Fragment = wgsl!("../../shaders/optimizer/shared/moment_codes.wgsl");
/// Lion over a momentum that the kernel loads and keeps; wants [`UPDATE_FRAME`].
pub const LION_UPDATE: Fragment = wgsl!("../../shaders/optimizer/shared/lion_update.wgsl");
/// `agrees`: where two vectors have the same sign.
pub const AGREES: Fragment = wgsl!("../../shaders/optimizer/shared/agrees.wgsl");
/// `shrink`: weight decay, cautious or not; wants [`UPDATE_FRAME`] and [`AGREES`].
pub const CAUTIOUS_DECAY: Fragment = wgsl!("../../shaders/optimizer/shared/cautious_decay.wgsl");
/// `TensorRange`: which partial sums are those of a tensor.
pub const TENSOR_RANGE: Fragment = wgsl!("../../shaders/optimizer/shared/tensor_range.wgsl");
/// `FactoredTensor` and what Adafactor keeps of it; wants [`CLIPPED`] and [`POWER`].
pub const FACTORED: Fragment = wgsl!("../../shaders/optimizer/shared/factored.wgsl");
/// `normalized` and `vector_variance`: Adafactor's update before it is bounded; wants [`FACTORED`].
pub const ADAFACTOR_UPDATE: Fragment =
    wgsl!("../../shaders/optimizer/shared/adafactor_update.wgsl");
/// `unpack_bf16`, `pack_bf16`, `round_bf16`, `nan_bits`: bf16 as integers.
pub const BF16: Fragment = wgsl!("../../shaders/shared/bf16.wgsl");
/// [`WEIGHT_F32`]'s functions over bf16 with stochastic rounding; wants [`BF16`] and [`RANDOM`] too.
pub const WEIGHT_BF16_STOCHASTIC: Fragment =
    wgsl!("../../shaders/shared/weight_bf16_stochastic.wgsl");
/// [`WEIGHT_F32`]'s functions over bf16 with Kahan compensation; wants [`BF16`] too.
pub const WEIGHT_BF16_KAHAN: Fragment = wgsl!("../../shaders/shared/weight_bf16_kahan.wgsl");
/// [`WEIGHT_F32`]'s functions over f32 split in two halves; wants [`BF16`] too.
pub const WEIGHT_BF16_SPLIT: Fragment = wgsl!("../../shaders/shared/weight_bf16_split.wgsl");
/// `overflowed`, `scale_below`, `magnitude4`: powers of two that keep squares within f32.
pub const RANGE: Fragment = wgsl!("../../shaders/shared/range.wgsl");
/// `centred`: deviations from a mean kept as shift + rest.
pub const CENTRED: Fragment = wgsl!("../../shaders/shared/centred.wgsl");
/// `full_weight`: weights of a norm, which may be stored less an offset.
pub const OFFSET_WEIGHT: Fragment = wgsl!("../../shaders/shared/offset_weight.wgsl");
