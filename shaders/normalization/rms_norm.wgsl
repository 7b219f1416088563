// y = x / sqrt(mean(x^2) + eps) * (weight_offset + weight) over each row. One workgroup per row.
struct RmsNormParams {
    rows: u32,
    cols: u32,
    eps: f32,
    weight_offset: f32,
}

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(3) var<storage, read_write> y: array<Quad>; // (rows, cols)
// (rows): 1 / std of x scale, scale
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>;

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
        let found = row_rstd(lane, base, params.cols, params.eps); // 1 / std, scale
        for (var q = lane; q < quads; q += LANES) {
            let values = row_values(base + q) * found.y * found.x * full_weight(unpack(weight[q]));
            y[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
        if lane == 0u { statistics[row] = found; }
    }
}
