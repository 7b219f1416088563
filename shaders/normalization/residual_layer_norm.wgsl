// sum = x + residual; y = (sum - mean) / sqrt(variance + eps) * weight + bias over each row of the
// sum. One workgroup per row; numerically as layer_norm.
struct ResidualLayerNormParams {
    rows: u32,
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: ResidualLayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> residual: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(4) var<storage, read> bias: array<Quad>; // (cols)
@group(0) @binding(5) var<storage, read_write> sum: array<Quad>; // (rows, cols)
@group(0) @binding(6) var<storage, read_write> y: array<Quad>; // (rows, cols)
// (rows): mean, 1 / std
@group(0) @binding(7) var<storage, read_write> statistics: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let quads = row_quads(params.cols);
        let base = row * quads;
        let first = unpack(pack(unpack(x[base]) + unpack(residual[base]))).x;
        var partial = vec4(0.0);
        for (var q = lane; q < quads; q += LANES) {
            // As stored: the backward pass reads the rounded sum.
            let stored = pack(unpack(x[base + q]) + unpack(residual[base + q]));
            sum[base + q] = stored;
            let values = unpack(stored);
            partial += masked(values - first, is_element(q, params.cols));
        }
        let offset = workgroup_sum(lane, sum4(partial)) / f32(params.cols);
        var squares = vec4(0.0);
        for (var q = lane; q < quads; q += LANES) {
            let centred = unpack(sum[base + q]) - first - offset;
            squares += masked(centred * centred, is_element(q, params.cols));
        }
        let variance = workgroup_sum(lane, sum4(squares)) / f32(params.cols);
        let rstd = inverseSqrt(variance + params.eps);
        for (var q = lane; q < quads; q += LANES) {
            let normalized = (unpack(sum[base + q]) - first - offset) * rstd;
            let values = normalized * unpack(weight[q]) + unpack(bias[q]);
            y[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
        if lane == 0u { statistics[row] = vec2(first + offset, rstd); }
    }
}
