// counts = [targets that are not ignore_index, 1], or counts += that: over the microbatches of a
// step, its targets and its microbatches. One workgroup in all.
struct CountTargetsParams {
    rows: u32,
    ignore_index: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: CountTargetsParams;
@group(0) @binding(1) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(2) var<storage, read_write> counts: array<u32>; // (2)

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var counted = 0u;
    for (var row = lane; row < params.rows; row += 64u) {
        if targets[row] != params.ignore_index { counted += 1u; }
    }
    let count = workgroup_sum_u32(lane, counted);
    if lane == 0u {
        var before = vec2(0u);
        if params.accumulate != 0u { before = vec2(counts[0], counts[1]); }
        // 2^32 - 1 is the most, rather than a sum that wrapped.
        counts[0] = before.x + min(count, ~before.x);
        counts[1] = before.y + 1u;
    }
}
