// y = (x - mean) / sqrt(variance + eps) * weight + bias per column, with the batch's statistics in
// training and, where `given` is set, the running ones in evaluation. One invocation per quad.
struct BatchNormParams {
    rows: u32,
    features: u32,
    eps: f32,
    given: u32,
}

@group(0) @binding(0) var<uniform> params: BatchNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, features)
// (4, features) as batch_norm_statistics leaves them; given, (2, features): means, variances
@group(0) @binding(2) var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<Quad>; // (features)
@group(0) @binding(4) var<storage, read> bias: array<Quad>; // (features)
@group(0) @binding(5) var<storage, read_write> y: array<Quad>; // (rows, features)

fn moments_of(quad: u32, quads: u32) -> FeatureMoments {
    if params.given == 0u { return batch_moments(quad, quads, params.eps); }
    let rstd = inverseSqrt(statistics[quads + quad] + params.eps);
    return FeatureMoments(statistics[quad], vec4(0.0), rstd, vec4(1.0));
}

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
        let moments = moments_of(q, quads);
        let normalized = deviations(unpack(x[i]), moments, hidden_zero(groups)) * moments.rstd;
        let values = normalized * unpack(weight[q]) + unpack(bias[q]);
        y[i] = pack(masked(values, is_element(q, params.features)));
    }
}
