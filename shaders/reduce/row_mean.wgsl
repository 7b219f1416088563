// mean = sum_r values[r] / rows. One workgroup in all.
struct RowMeanParams {
    rows: u32,
}

@group(0) @binding(0) var<uniform> params: RowMeanParams;
@group(0) @binding(1) var<storage, read> values: array<f32>; // (rows)
@group(0) @binding(2) var<storage, read_write> mean: array<f32>; // (1)

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var row = lane; row < params.rows; row += 64u) { sum += values[row]; }
    let total = workgroup_sum(lane, sum);
    if lane == 0u { mean[0] = total / f32(max(params.rows, 1u)); }
}
