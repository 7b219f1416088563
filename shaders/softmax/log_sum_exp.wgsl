// y[r] = max_r + log(sum_c exp(x[r, c] - max_r)) over the row's valid columns. One workgroup per
// row. A row without valid columns gives EMPTY.
struct LogSumExpParams {
    rows: u32,
    cols: u32,
    valid_cols: u32,
    use_lengths: u32,
}

@group(0) @binding(0) var<uniform> params: LogSumExpParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> lengths: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // (rows)
// (rows): max_r, log(sum_c exp(x - max_r))
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let base = row * row_quads(params.cols);
        var valid = min(params.cols, params.valid_cols);
        if params.use_lengths != 0u { valid = min(valid, lengths[row]); }
        var running = no_exponentials();
        for (var q = lane; q < row_quads(valid); q += LANES) {
            running = count_exponentials(running, unpack(x[base + q]), is_element(q, valid));
        }
        let total = workgroup_log_sum_exp(lane, running);
        if lane == 0u {
            y[row] = select(total.largest + total.log_sum, EMPTY, total.empty);
            statistics[row] = vec2(total.largest, total.log_sum);
        }
    }
}

// Stands for log(0) = -Inf; src/kernels/softmax.rs exports it.
const EMPTY = LOWEST;
