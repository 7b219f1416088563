// dx[r, c] = upstream[r] * exp(x[r, c] - max_r - log_sum_r) in the row's valid columns, 0 in the others. One
// invocation per quad.
struct LogSumExpBackwardParams {
    rows: u32,
    cols: u32,
    valid_cols: u32,
    use_lengths: u32,
}

@group(0) @binding(0) var<uniform> params: LogSumExpBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> lengths: array<u32>; // (rows)
// (rows), as log_sum_exp leaves them. Apart, because beside a large maximum their sum would lose the
// digits of the logarithm.
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> upstream: array<f32>; // (rows)
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Quad>; // (rows, cols)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = row_quads(params.cols);
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * quads {
        let row = i / quads;
        var valid = min(params.cols, params.valid_cols);
        if params.use_lengths != 0u { valid = min(valid, lengths[row]); }
        let keep = is_element(i % quads, valid);
        var values = vec4(0.0);
        if any(keep) {
            let found = statistics[row];
            var softmax = exp4_nonpositive((unpack(x[i]) - found.x) - found.y);
            let bits = bitcast<u32>(found.y);
            if !is_finite_bits(bits) { softmax = vec4(nan_from(bits)); }
            values = masked(upstream[row] * softmax, keep);
        }
        x_gradient[i] = pack(values);
    }
}
