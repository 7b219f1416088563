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
// (4, features) as batch_norm_statistics leaves them
@group(0) @binding(3) var<storage, read> statistics: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<Quad>; // (features)
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Quad>; // (rows, features)
@group(0) @binding(6) var<storage, read_write> dweight: array<vec4<f32>>; // (features)
@group(0) @binding(7) var<storage, read_write> dbias: array<vec4<f32>>; // (features)

struct Sums { weight: vec4<f32>, bias: vec4<f32>, squares: vec4<f32> }

// Sums of g xhat, g and g^2 with g = dy - centre. Since xhat adds up to 0, the first is dweight.
fn gradient_sums(
    lane: u32, quad: u32, moments: FeatureMoments, centre: vec4<f32>, zero: u32,
) -> Sums {
    let quads = row_quads(params.features);
    var partial = Sums();
    for (var row = lane; row < params.rows; row += LANES) {
        let i = row * quads + quad;
        let g = unpack(dy[i]) - centre;
        partial.weight += g * deviations(unpack(x[i]), moments, zero) * moments.rstd;
        partial.bias += g;
        partial.squares += g * g;
    }
    let weight_sum = workgroup_sum_vec4(lane, partial.weight);
    let bias_sum = workgroup_sum_vec4(lane, partial.bias);
    let square_sum = workgroup_sum_vec4(lane, partial.squares);
    return Sums(weight_sum, bias_sum, square_sum);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = flat_group(group, groups);
    let quads = row_quads(params.features);
    if quad < quads {
        let count = f32(params.rows);
        let zero = hidden_zero(groups);
        let moments = batch_moments(quad, quads, params.eps);
        let keep = is_element(quad, params.features);
        var centre = vec4(0.0);
        var sums = gradient_sums(lane, quad, moments, centre, zero);
        var bias_sum = masked(sums.bias, keep);
        let mean = sums.bias / count;
        let alike = mean * mean > ALIKE * (sums.squares / count);
        if any(alike) {
            // dy is much the same throughout, and what counts of it is how it differs.
            centre = select(centre, mean, alike);
            sums = gradient_sums(lane, quad, moments, centre, zero);
        }
        var weight_sum = masked(sums.weight, keep);
        let factor = unpack(weight[quad]) * moments.rstd;
        let mean_weight = weight_sum / count;
        let mean_bias = sums.bias / count;
        for (var row = lane; row < params.rows; row += LANES) {
            let i = row * quads + quad;
            let normalized = deviations(unpack(x[i]), moments, zero) * moments.rstd;
            let g = unpack(dy[i]) - centre;
            let values = factor * (g - mean_bias - normalized * mean_weight) * moments.scale;
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
