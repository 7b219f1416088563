// y = (x - mean) / sqrt(variance + eps) * weight + bias over each row. One workgroup per row.
// Numerically as shared/row_moments.wgsl says.
struct LayerNormParams {
    rows: u32,
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: LayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(3) var<storage, read> bias: array<Quad>; // (cols)
@group(0) @binding(4) var<storage, read_write> y: array<Quad>; // (rows, cols)
// (rows): shift, rest, 1 / std, scale. mean = (shift + rest) / scale; x scale has that std.
@group(0) @binding(5) var<storage, read_write> statistics: array<vec4<f32>>;

fn row_values(i: u32) -> vec4<f32> { return unpack(x[i]); }

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
        let zero = hidden_zero(groups);
        let first = unpack(x[base]).x;
        let found = row_moments(lane, base, params.cols, first, zero);
        let eps = params.eps * found.scale * found.scale;
        let rstd = inverseSqrt(found.squares / f32(params.cols) + eps);
        for (var q = lane; q < quads; q += LANES) {
            let x_scaled = row_values(base + q) * found.scale;
            let normalized = centred(x_scaled, vec4(found.shift), vec4(found.rest), zero) * rstd;
            let values = normalized * unpack(weight[q]) + unpack(bias[q]);
            y[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
        if lane == 0u { statistics[row] = vec4(found.shift, found.rest, rstd, found.scale); }
    }
}
