// max_logit[h] = largest, entropy[h] = mean over the sequences and positions of head h; NaN both
// where a row is not finite. `accumulate` goes on from the microbatches before: the largest of all,
// the mean of all. One workgroup per head.
struct AttentionSummaryParams {
    batch: u32,
    time: u32,
    heads: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: AttentionSummaryParams;
@group(0) @binding(1) var<storage, read> input: StepInput;
@group(0) @binding(2) var<storage, read> row_logits: array<vec2<u32>>; // f32 (batch, heads, time)
@group(0) @binding(3) var<storage, read_write> max_logit: array<u32>; // f32 (heads)
@group(0) @binding(4) var<storage, read_write> entropy: array<u32>; // f32 (heads)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    var found = no_summary();
    for (var row = lane; row < params.batch * params.time; row += 64u) {
        let at = (row / params.time * params.heads + head) * params.time + row % params.time;
        found = summarized(found, row_logits[at].x, bitcast<f32>(row_logits[at].y));
    }
    found = workgroup_summary(lane, found);
    if lane == 0u {
        found.sum /= f32(params.batch * params.time);
        var bits = summary_bits(found);
        if params.accumulate != 0u {
            let before = vec2(max_logit[head], entropy[head]);
            bits = joined(before, bits, input.microbatch);
        }
        max_logit[head] = bits.x;
        entropy[head] = bits.y;
    }
}
