// dbias = sum_r dy, dweight = sum_r dy xhat, and through the batch statistics
// dx = weight rstd (dy - dbias / rows - xhat dweight / rows), xhat = (x - mean) rstd.
// One workgroup per quad of features. dx is overwritten; the others obey `accumulate`.
struct BatchNormBackwardParams {
    rows: u32,
    features: u32,
    eps: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: BatchNormBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, features)
@group(0) @binding(2) var<storage, read> dy: array<Quad>; // (rows, features)
// (2, features): means, variances
@group(0) @binding(3) var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<Quad>; // (features)
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Quad>; // (rows, features)
@group(0) @binding(6) var<storage, read_write> dweight: array<vec4<f32>>; // (features)
@group(0) @binding(7) var<storage, read_write> dbias: array<vec4<f32>>; // (features)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = flat_group(group, groups);
    let quads = row_quads(params.features);
    if quad < quads {
        let mean = statistics[quad];
        let rstd = inverseSqrt(statistics[quads + quad] + params.eps);
        var partial_weight = vec4(0.0);
        var partial_bias = vec4(0.0);
        for (var row = lane; row < params.rows; row += LANES) {
            let i = row * quads + quad;
            partial_weight += unpack(dy[i]) * (unpack(x[i]) - mean) * rstd;
            partial_bias += unpack(dy[i]);
        }
        let keep = is_element(quad, params.features);
        var weight_sum = masked(workgroup_sum_vec4(lane, partial_weight), keep);
        var bias_sum = masked(workgroup_sum_vec4(lane, partial_bias), keep);
        let scale = unpack(weight[quad]) * rstd;
        let mean_weight = weight_sum / f32(params.rows);
        let mean_bias = bias_sum / f32(params.rows);
        for (var row = lane; row < params.rows; row += LANES) {
            let i = row * quads + quad;
            let normalized = (unpack(x[i]) - mean) * rstd;
            let values = scale * (unpack(dy[i]) - mean_bias - normalized * mean_weight);
            x_gradient[i] = pack(masked(values, keep));
        }
        if lane == 0u {
            if params.accumulate != 0u {
                weight_sum += dweight[quad];
                bias_sum += dbias[quad];
            }
            dweight[quad] = weight_sum;
            dbias[quad] = bias_sum;
        }
    }
}
