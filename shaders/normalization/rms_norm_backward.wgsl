// dx = rstd * (w dy - xhat mean(w dy xhat)) with xhat = x scale rstd, w = weight_offset + weight,
// the mean over the row, times scale; plus residual_gradient where add_residual is set. One workgroup
// per row.
struct RmsNormBackwardParams {
    rows: u32,
    cols: u32,
    add_residual: u32,
    weight_offset: f32,
}

@group(0) @binding(0) var<uniform> params: RmsNormBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(3) var<storage, read> dy: array<Quad>; // (rows, cols)
@group(0) @binding(4) var<storage, read> statistics: array<vec2<f32>>; // (rows): 1 / std, scale
@group(0) @binding(5) var<storage, read> residual_gradient: array<Quad>; // (rows, cols)
@group(0) @binding(6) var<storage, read_write> x_gradient: array<Quad>; // (rows, cols)

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
        let rstd = statistics[row].x;
        let scale = statistics[row].y;
        var partial = 0.0;
        for (var q = lane; q < quads; q += LANES) {
            let normalized = unpack(x[base + q]) * scale * rstd;
            partial += dot(full_weight(unpack(weight[q])) * unpack(dy[base + q]), normalized);
        }
        let projection = workgroup_sum(lane, partial) / f32(params.cols);
        for (var q = lane; q < quads; q += LANES) {
            let normalized = unpack(x[base + q]) * scale * rstd;
            let weighted = full_weight(unpack(weight[q])) * unpack(dy[base + q]);
            var values = rstd * (weighted - normalized * projection) * scale;
            if params.add_residual != 0u { values += unpack(residual_gradient[base + q]); }
            x_gradient[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
    }
}
