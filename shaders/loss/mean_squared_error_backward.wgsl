// dprediction = upstream * 2 / (rows cols) * (prediction - expected). One invocation per quad.
struct MeanSquaredErrorBackwardParams {
    rows: u32,
    cols: u32,
}

@group(0) @binding(0) var<uniform> params: MeanSquaredErrorBackwardParams;
@group(0) @binding(1) var<storage, read> prediction: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> expected: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read> upstream: array<f32>; // (1)
@group(0) @binding(4) var<storage, read_write> dprediction: array<Quad>; // (rows, cols)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = row_quads(params.cols);
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * quads {
        let scale = upstream[0] * 2.0 / (f32(params.rows) * f32(params.cols));
        let values = scale * (unpack(prediction[i]) - unpack(expected[i]));
        dprediction[i] = pack(masked(values, is_element(i % quads, params.cols)));
    }
}
