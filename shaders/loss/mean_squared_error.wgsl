// loss[r] = mean_c (prediction - expected)^2; row_mean makes the mean over all elements of it.
// One workgroup per row.
struct MeanSquaredErrorParams {
    rows: u32,
    cols: u32,
}

@group(0) @binding(0) var<uniform> params: MeanSquaredErrorParams;
@group(0) @binding(1) var<storage, read> prediction: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> expected: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> loss: array<f32>; // (rows)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let quads = row_quads(params.cols);
        var partial = 0.0;
        for (var q = lane; q < quads; q += LANES) {
            let i = row * quads + q;
            let difference = unpack(prediction[i]) - unpack(expected[i]);
            partial += dot(difference, difference);
        }
        let sum = workgroup_sum(lane, partial);
        if lane == 0u { loss[row] = sum / f32(params.cols); }
    }
}
