//! Attention by subgroups of 8, where a software driver has them: the bits of attention through
//! workgroup memory, over every storage, at all widths of heads and around tiles of 8 rows.

use evenkeel::kernel::{HeadQuads, Variant};
use evenkeel::kernels::*;
use evenkeel::reference::attention::Attention as Size;
use evenkeel::{Gpu, Precision};

use super::attention::size;
use super::support::{self, block_on, values};

tests! {
    subgroups_change_no_bit, nonfinite_values_reach_the_same_rows,
}

const SIZES: &[Size] = &[
    size(1, 1, 1, 1, 4),
    size(2, 9, 3, 1, 12),
    Size { soft_cap: 0.8, ..size(1, 70, 4, 2, 16) },
    size(1, 8, 2, 2, 28),
    size(2, 19, 2, 1, 32),
    size(1, 17, 2, 1, 40),
    Size { soft_cap: 0.8, ..size(1, 23, 1, 1, 64) },
    size(1, 11, 2, 2, 92),
    size(1, 10, 1, 1, 128),
    size(1, 9, 1, 1, 132),
    size(1, 17, 2, 1, 256),
    Size { window: 1, ..size(1, 20, 2, 1, 12) },
    Size { window: 5, ..size(1, 75, 2, 1, 16) },
    Size { window: 9, soft_cap: 0.8, ..size(1, 23, 1, 1, 64) },
    Size { window: 66, ..size(1, 80, 1, 1, 8) },
];

/// The device as it is and as one that shares nothing, where that makes a difference.
fn both() -> Option<[Gpu; 2]> {
    let gpu = support::gpu()?;
    let has_subgroups = [gpu.info.subgroup_min_size, gpu.info.subgroup_max_size] == [8; 2];
    let alone = support::gpu_with_hardware_kernels().expect("the same adapter");
    (gpu.is_software() && has_subgroups).then_some([gpu, alone])
}

fn tensor(gpu: &Gpu, precision: Precision, values: &[f32]) -> wgpu::Buffer {
    gpu.upload("tensor", &precision.encode(values))
}

/// What all kernels leave, as bytes: output, statistics, row logits, gradient.
pub fn run(gpu: &Gpu, size: &Size, precision: Precision, qkv: &[f32]) -> [Vec<u8>; 4] {
    let rows = size.batch * size.heads * size.time;
    let bind = wgpu::Buffer::as_entire_buffer_binding;
    let qkv_values = tensor(gpu, precision, qkv);
    let output_gradient = tensor(gpu, precision, &values(42, size.output_len()));
    let output = tensor(gpu, precision, &vec![7.0; size.output_len()]);
    let qkv_gradient = tensor(gpu, precision, &vec![7.0; size.qkv_len()]);
    let [statistics, row_logits] =
        [(); 2].map(|()| gpu.upload("statistics", &vec![7.0f32; 2 * rows]));
    let delta = gpu.upload("delta", &vec![7.0f32; rows]);
    let heads = HeadQuads::fitting(size.head_dim as u32 / 4);
    let variant = Variant { precision, ..heads.into() };
    let params = AttentionParams {
        batch: size.batch as u32,
        time: size.time as u32,
        heads: size.heads as u32,
        kv_heads: size.kv_heads as u32,
        head_quads: size.head_dim as u32 / 4,
        scale: size.scale as f32,
        soft_cap: size.soft_cap as f32,
        window: size.window as u32,
    };
    let forward = Attention {
        params,
        watch: 1,
        qkv: bind(&qkv_values),
        output: bind(&output),
        statistics: bind(&statistics),
        row_logits: bind(&row_logits),
    };
    gpu.run_as(&forward, variant);
    let subtracted = AttentionDelta {
        params: bytemuck::cast(params),
        output: bind(&output),
        output_gradient: bind(&output_gradient),
        delta: bind(&delta),
    };
    gpu.run_as(&subtracted, variant);
    let backward = AttentionBackwardQuery {
        params: bytemuck::cast(params),
        qkv: bind(&qkv_values),
        output_gradient: bind(&output_gradient),
        statistics: bind(&statistics),
        delta: bind(&delta),
        qkv_gradient: bind(&qkv_gradient),
    };
    gpu.run_as(&backward, variant);
    let backward = AttentionBackwardKeyValue {
        params: bytemuck::cast(params),
        qkv: bind(&qkv_values),
        output_gradient: bind(&output_gradient),
        statistics: bind(&statistics),
        delta: bind(&delta),
        qkv_gradient: bind(&qkv_gradient),
    };
    gpu.run_as(&backward, variant);
    [&output, &statistics, &row_logits, &qkv_gradient]
        .map(|buffer| block_on(gpu.read(buffer, 0, buffer.size() as usize)).expect("readable"))
}

const NAMES: [&str; 4] = ["output", "statistics", "row logits", "gradient"];

fn subgroups_change_no_bit() {
    let Some(both) = both() else { return };
    for (i, size) in SIZES.iter().enumerate() {
        let qkv = values(41, size.qkv_len());
        // Every storage at two sizes.
        let all = if i == 1 || i == 5 { &Precision::ALL[..] } else { &Precision::ALL[..1] };
        for &precision in all {
            let [shared, expected] = both.each_ref().map(|gpu| run(gpu, size, precision, &qkv));
            for ((name, a), b) in NAMES.iter().zip(&shared).zip(&expected) {
                assert!(a == b, "{name} of {size:?} in {precision}");
            }
        }
    }
}

/// NaN or Inf in a key, in a value, in the last row that a tile repeats: those rows and no others.
fn nonfinite_values_reach_the_same_rows() {
    let Some(both) = both() else { return };
    for (head_dim, bad, window) in [
        (12, f32::NAN, 19),
        (12, f32::INFINITY, 19),
        (40, f32::NEG_INFINITY, 19),
        (12, f32::INFINITY, 3),
        (40, f32::NAN, 9),
    ] {
        let size = Size { window, ..size(1, 19, 1, 1, head_dim) };
        for (row, column) in [(3, head_dim), (9, 2 * head_dim), (18, 0), (18, 3 * head_dim - 1)] {
            let mut qkv = values(43, size.qkv_len());
            qkv[row * 3 * head_dim + column] = bad;
            let [shared, expected] =
                both.each_ref().map(|gpu| run(gpu, &size, Precision::F32, &qkv));
            for ((name, a), b) in NAMES.iter().zip(&shared).zip(&expected) {
                // Which NaN it is may differ.
                let [a, b] = [a, b].map(|bytes| {
                    let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
                    let bits =
                        values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() });
                    bits.collect::<Vec<_>>()
                });
                assert!(a == b, "{name} with {bad} in {row}, {column} of {size:?}");
            }
        }
    }
}
