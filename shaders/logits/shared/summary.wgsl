// A largest number and a sum over rows, and whether any row was not finite: by its bits, since max
// may drop a NaN.
// The lowest f32, in hexadecimal, since Tint rejects a decimal that must be rounded.
const LOWEST = -0x1.fffffep+127;

struct Summary {
    largest: f32,
    sum: f32,
    worst: u32, // largest magnitude among the first numbers, as bits
}

fn no_summary() -> Summary { return Summary(LOWEST, 0.0, 0u); }

fn summarized(before: Summary, bits: u32, term: f32) -> Summary {
    return Summary(
        max(before.largest, bitcast<f32>(bits)),
        before.sum + term,
        max(before.worst, bits & 0x7fffffffu),
    );
}

fn workgroup_summary(lane: u32, own: Summary) -> Summary {
    let largest = workgroup_max(lane, own.largest);
    let sum = workgroup_sum(lane, own.sum);
    let worst = workgroup_max_u32(lane, own.worst);
    return Summary(largest, sum, worst);
}

fn summary_bits(found: Summary) -> vec2<u32> {
    let bits = vec2(bitcast<u32>(found.largest), bitcast<u32>(found.sum));
    return select(vec2(found.worst | 0x7fc00000u), bits, is_finite_bits(found.worst));
}

// What `count` microbatches gave, and one more: the largest, and the mean. NaN stays.
fn joined(before: vec2<u32>, now: vec2<u32>, count: u32) -> vec2<u32> {
    if !is_finite_bits(before.x) { return before; }
    if !is_finite_bits(now.x) { return now; }
    let old = bitcast<vec2<f32>>(before);
    let new_ = bitcast<vec2<f32>>(now);
    let mean = old.y + (new_.y - old.y) / f32(count + 1u);
    return vec2(bitcast<u32>(max(old.x, new_.x)), bitcast<u32>(mean));
}
