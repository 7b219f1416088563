// statistics = mean and biased variance of each column of x. One workgroup per quad of features;
// two passes, the mean relative to the first row, so that a large common offset costs no digits.
struct BatchNormStatisticsParams {
    rows: u32,
    features: u32,
}

@group(0) @binding(0) var<uniform> params: BatchNormStatisticsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, features)
// (2, features): means, variances
@group(0) @binding(2) var<storage, read_write> statistics: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = flat_group(group, groups);
    let quads = row_quads(params.features);
    if quad < quads {
        let first = unpack(x[quad]);
        var partial = vec4(0.0);
        for (var row = lane; row < params.rows; row += LANES) {
            partial += unpack(x[row * quads + quad]) - first;
        }
        let offset = workgroup_sum_vec4(lane, partial) / f32(params.rows);
        var squares = vec4(0.0);
        for (var row = lane; row < params.rows; row += LANES) {
            let centred = unpack(x[row * quads + quad]) - first - offset;
            squares += centred * centred;
        }
        let variance = workgroup_sum_vec4(lane, squares) / f32(params.rows);
        if lane == 0u {
            let keep = is_element(quad, params.features);
            statistics[quad] = masked(first + offset, keep);
            statistics[quads + quad] = masked(variance, keep);
        }
    }
}
