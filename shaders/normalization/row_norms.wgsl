// norms[first + r] = sqrt(sum_c w[r, c]^2), or that of w + delta. One workgroup per row.
struct RowNormsParams {
    rows: u32,
    cols: u32,
    first: u32,
    w_rows: u32,
    w_first_row: u32,
    has_delta: u32,
}

@group(0) @binding(0) var<uniform> params: RowNormsParams;
@group(0) @binding(1) var<storage, read> w: array<StoredWeight>; // (w_rows, cols)
@group(0) @binding(2) var<storage, read> delta: array<vec4<f32>>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> norms: array<f32>;

fn row_values(i: u32) -> vec4<f32> {
    let quads = row_quads(params.cols);
    var values = weight_quad(params.w_first_row + i / quads, i % quads);
    if params.has_delta != 0u { values += delta[i]; }
    return values;
}

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
        var scale = 1.0;
        var squares = sum_of_squares(lane, base, quads, scale);
        if overflowed(squares) {
            scale = row_scale(lane, base, quads);
            squares = sum_of_squares(lane, base, quads, scale);
        }
        if lane == 0u { norms[params.first + row] = sqrt(squares) / scale; }
    }
}
