// y = x / sqrt(mean(x^2) + eps) * weight over each row. One workgroup per row.
struct RmsNormParams {
    rows: u32,
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(3) var<storage, read_write> y: array<Quad>; // (rows, cols)
@group(0) @binding(4) var<storage, read_write> statistics: array<f32>; // (rows): 1 / std

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
        var partial = vec4(0.0);
        for (var q = lane; q < quads; q += LANES) {
            let values = unpack(x[base + q]);
            partial += values * values;
        }
        let mean_square = workgroup_sum(lane, sum4(partial)) / f32(params.cols);
        let rstd = inverseSqrt(mean_square + params.eps);
        for (var q = lane; q < quads; q += LANES) {
            let values = unpack(x[base + q]) * rstd * unpack(weight[q]);
            y[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
        if lane == 0u { statistics[row] = rstd; }
    }
}
