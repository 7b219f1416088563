// sums[s] = the exact sum over the parts of segment s; norms[s] = its root, rounded to nearest.
// One workgroup per segment; ROWS parts at a time, each read by QUADS invocations as vec4.
struct ExactFoldParams { segment_count: u32, indirect: u32 }

@group(0) @binding(0) var<uniform> params: ExactFoldParams;
@group(0) @binding(1) var<storage, read> segments: array<Segment>;
@group(0) @binding(2) var<storage, read> members: array<u32>;
@group(0) @binding(3) var<storage, read> parts: array<vec4<u32>>; // (parts, QUADS)
@group(0) @binding(4) var<storage, read_write> sums: array<ExactSum>;
@group(0) @binding(5) var<storage, read_write> norms: array<TensorNorm>;

const QUADS = WORDS / 4u;
const ROWS = 64u / QUADS;

// Sums of 32-bit words have 64 bits, in two words.
struct Sum { low: vec4<u32>, high: vec4<u32> }

var<workgroup> lows: array<vec4<u32>, 64>;
var<workgroup> highs: array<vec4<u32>, 64>;
var<workgroup> counts: array<u32, 4>;
var<workgroup> filled: atomic<u32>;

// Zeros past the segment's end.
fn part(segment: Segment, k: u32, column: u32) -> vec4<u32> {
    var quad = vec4<u32>();
    if k < segment.count { quad = parts[part_index(segment, k) * QUADS + column]; }
    return quad;
}

// The word after the limbs is no sum but a maximum.
fn joined(sum: Sum, quad: vec4<u32>, column: u32) -> Sum {
    var low = sum.low + quad;
    if column == LIMBS / 4u { low.x = max(sum.low.x, quad.x); }
    return Sum(low, sum.high + select(vec4(0u), vec4(1u), low < quad));
}

// One invocation's share of the segment's parts; four loads are under way at a time.
fn column_sum(segment: Segment, lane: u32) -> Sum {
    let column = lane % QUADS;
    var sum = Sum();
    if lane < ROWS * QUADS {
        for (var k = lane / QUADS; k < segment.count; k += 4u * ROWS) {
            let q0 = part(segment, k, column);
            let q1 = part(segment, k + ROWS, column);
            let q2 = part(segment, k + 2u * ROWS, column);
            let q3 = part(segment, k + 3u * ROWS, column);
            sum = joined(joined(sum, q0, column), q1, column);
            sum = joined(joined(sum, q2, column), q3, column);
        }
    }
    return sum;
}

// One word of the sum over all rows.
fn word_sum(word: u32) -> vec2<u32> {
    var sum = vec2<u32>();
    for (var row = 0u; row < ROWS; row++) {
        let low = lows[row * QUADS + word / 4u][word % 4u];
        let before = sum.x;
        sum.x += low;
        if word == LIMBS { sum.x = max(before, low); }
        sum.y += highs[row * QUADS + word / 4u][word % 4u] + select(0u, 1u, sum.x < low);
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = flat_group(group, groups);
    if s < params.segment_count {
        let share = column_sum(segments[s], lane);
        lows[lane] = share.low;
        highs[lane] = share.high;
        workgroupBarrier();
        var word = vec2<u32>();
        if lane < WORDS { word = word_sum(lane); }
        let limb = carry_limbs(lane, word.x, word.y);
        if lane < LIMBS {
            limbs[lane] = limb;
            sums[s].limbs[lane] = limb;
            if limb != 0u { atomicOr(&filled, 1u << lane); }
        } else if lane < WORDS {
            // A count that has wrapped must not read as small, least of all as none.
            counts[lane - LIMBS] = select(word.x, 0xffffffffu, word.y != 0u);
        }
        workgroupBarrier();
        if lane == 0u {
            var norm = root(atomicLoad(&filled));
            if counts[1] != 0u { norm = Wide(1.0, NONFINITE_EXPONENT); }
            sums[s].max_bits = counts[0];
            sums[s].nonfinite_count = counts[1];
            sums[s].zero_count = counts[2];
            sums[s].padding = 0u;
            norms[s] =
                TensorNorm(norm.significand, norm.exponent, counts[0], counts[1], counts[2]);
        }
    }
}
