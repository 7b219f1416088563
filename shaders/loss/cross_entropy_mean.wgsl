// mean = [sum_r loss[r] / N, 1 / N] over the N rows whose target is not ignore_index; [0, 0]
// where there are none. One workgroup in all.
struct CrossEntropyMeanParams {
    rows: u32,
    ignore_index: u32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyMeanParams;
@group(0) @binding(1) var<storage, read> loss: array<f32>; // (rows)
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> mean: array<f32>; // (2)

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var partial = 0.0;
    var counted = 0u;
    for (var row = lane; row < params.rows; row += 64u) {
        if targets[row] != params.ignore_index {
            partial += loss[row];
            counted += 1u;
        }
    }
    let sum = workgroup_sum(lane, partial);
    let count = workgroup_sum_u32(lane, counted);
    if lane == 0u {
        let divisor = f32(max(count, 1u));
        mean[0] = sum / divisor;
        mean[1] = select(1.0 / divisor, 0.0, count == 0u);
    }
}
