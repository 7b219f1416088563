// y[r, c] = exp(x[r, c] - max_r) / sum_c exp(x[r, c] - max_r) over the row's valid columns, 0 in
// the others. One workgroup per row. A row without valid columns is all zeros.
struct SoftmaxParams {
    rows: u32,
    cols: u32,
    valid_cols: u32,
    use_lengths: u32,
}

@group(0) @binding(0) var<uniform> params: SoftmaxParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> lengths: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> y: array<Quad>; // (rows, cols)

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
        var valid = min(params.cols, params.valid_cols);
        if params.use_lengths != 0u { valid = min(valid, lengths[row]); }
        var running = no_exponentials();
        for (var q = lane; q < row_quads(valid); q += LANES) {
            running = count_exponentials(running, unpack(x[base + q]), is_element(q, valid));
        }
        let total = workgroup_log_sum_exp(lane, running);
        let inverse = 1.0 / (1.0 + total.others);
        for (var q = lane; q < quads; q += LANES) {
            let keep = is_element(q, valid) & vec4(!total.empty);
            var values = vec4(0.0);
            if any(keep) {
                let exponentials = exp4_nonpositive(unpack(x[base + q]) - total.largest);
                values = masked(exponentials * inverse, keep);
            }
            y[base + q] = pack(values);
        }
    }
}
