// max_logit = largest logit, penalty = z_loss sum of lse^2 / N * M, over the rows that count, for N
// of them in a step of M microbatches; NaN both where a row is not finite, the lowest f32 and 0 where
// no row counts. `accumulate` goes on from the microbatches before: the largest of all, the mean of
// all. One workgroup in all.
struct LogitSummaryParams {
    rows: u32,
    ignore_index: u32,
    z_loss: f32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: LogitSummaryParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> statistics: array<vec2<u32>>; // f32 (rows): max, lse - max
@group(0) @binding(3) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(4) var<storage, read> counts: array<u32>; // (2): N, M
@group(0) @binding(5) var<storage, read_write> max_logit: array<u32>; // f32 (1)
@group(0) @binding(6) var<storage, read_write> penalty: array<u32>; // f32 (1)

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var found = no_summary();
    for (var row = lane; row < params.rows; row += 64u) {
        if targets[row] != params.ignore_index {
            let lse = bitcast<f32>(statistics[row].x) + bitcast<f32>(statistics[row].y);
            found = summarized(found, statistics[row].x, lse * lse);
            // A NaN logit may show in the second number alone: max may drop it.
            found.worst = max(found.worst, statistics[row].y & 0x7fffffffu);
        }
    }
    found = workgroup_summary(lane, found);
    if lane == 0u {
        found.sum *= params.z_loss / f32(max(counts[0], 1u)) * f32(counts[1]);
        var bits = summary_bits(found);
        if params.accumulate != 0u {
            bits = joined(vec2(max_logit[0], penalty[0]), bits, input.microbatch);
        }
        max_logit[0] = bits.x;
        penalty[0] = bits.y;
    }
}
