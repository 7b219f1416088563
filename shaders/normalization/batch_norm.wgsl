// y = (x - mean) / sqrt(variance + eps) * weight + bias per column, with the batch's statistics in
// training and the running ones in evaluation. One invocation per quad.
struct BatchNormParams {
    rows: u32,
    features: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: BatchNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, features)
// (2, features): means, variances
@group(0) @binding(2) var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<Quad>; // (features)
@group(0) @binding(4) var<storage, read> bias: array<Quad>; // (features)
@group(0) @binding(5) var<storage, read_write> y: array<Quad>; // (rows, features)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = row_quads(params.features);
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * quads {
        let q = i % quads;
        let rstd = inverseSqrt(statistics[quads + q] + params.eps);
        let normalized = (unpack(x[i]) - statistics[q]) * rstd;
        let values = normalized * unpack(weight[q]) + unpack(bias[q]);
        y[i] = pack(masked(values, is_element(q, params.features)));
    }
}
