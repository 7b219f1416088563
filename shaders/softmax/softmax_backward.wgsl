// dx = y * (dy - sum_c dy * y). One workgroup per row. Masked columns have y = 0, hence dx = 0.
struct SoftmaxBackwardParams {
    rows: u32,
    cols: u32,
}

@group(0) @binding(0) var<uniform> params: SoftmaxBackwardParams;
@group(0) @binding(1) var<storage, read> y: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> dy: array<Quad>; // (rows, cols)
@group(0) @binding(3) var<storage, read_write> x_gradient: array<Quad>; // (rows, cols)

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
        var partial = 0.0;
        for (var q = lane; q < quads; q += LANES) {
            partial += dot(unpack(y[base + q]), unpack(dy[base + q]));
        }
        let projection = workgroup_sum(lane, partial);
        for (var q = lane; q < quads; q += LANES) {
            let values = unpack(y[base + q]) * (unpack(dy[base + q]) - projection);
            x_gradient[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
    }
}
