// mean = [sum_r loss[r] / N * M, M / N] for the N targets that count in a step of M microbatches, so
// that the mean over microbatches is the sum over all rows / N; [0, 0] where N is 0. Rows that do not
// count have a loss of 0. One workgroup in all.
struct CrossEntropyMeanParams {
    rows: u32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyMeanParams;
@group(0) @binding(1) var<storage, read> loss: array<f32>; // (rows)
@group(0) @binding(2) var<storage, read> counts: array<u32>; // (2): N, M
@group(0) @binding(3) var<storage, read_write> mean: array<f32>; // (2)

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var partial = 0.0;
    for (var row = lane; row < params.rows; row += 64u) { partial += loss[row]; }
    let sum = workgroup_sum(lane, partial);
    if lane == 0u {
        let divisor = f32(max(counts[0], 1u));
        let microbatches = f32(counts[1]);
        mean[0] = sum / divisor * microbatches;
        mean[1] = select(1.0 / divisor * microbatches, 0.0, counts[0] == 0u);
    }
}
