// sums[s] = the exact sum over the parts of segment s; norms[s] = its root, rounded to nearest.
// One workgroup per segment, a row of 32 invocations per part, one invocation per word of it.
struct ExactFoldParams { segment_count: u32, indirect: u32 }

@group(0) @binding(0) var<uniform> params: ExactFoldParams;
@group(0) @binding(1) var<storage, read> segments: array<Segment>;
@group(0) @binding(2) var<storage, read> members: array<u32>;
@group(0) @binding(3) var<storage, read> parts: array<u32>; // (parts, WORDS)
@group(0) @binding(4) var<storage, read_write> sums: array<ExactSum>;
@group(0) @binding(5) var<storage, read_write> norms: array<TensorNorm>;

const ROWS = 8u;

var<workgroup> words: array<vec2<u32>, ROWS * 32u>;
var<workgroup> limbs: array<u32, LIMBS>;
var<workgroup> filled: atomic<u32>;

// x + y in 64 bits, low word first.
fn add64(x: vec2<u32>, y: vec2<u32>) -> vec2<u32> {
    let low = x.x + y.x;
    return vec2(low, x.y + y.y + select(0u, 1u, low < x.x));
}

// Joins one word of two parts: the larger max_bits, or the sum.
fn join(word: u32, x: vec2<u32>, y: vec2<u32>) -> vec2<u32> {
    if word == LIMBS { return max(x, y); }
    return add64(x, y);
}

// sqrt(sum_i limbs[i] * 2^(32 i - 298)) to 24 bits, ties to even, whose nonzero limbs are known.
// The root of the top 49 or 50 bits has 25, one by one, each from a pair of bits and the rest.
fn root(nonzero: u32) -> Wide {
    if nonzero == 0u { return widen(0u); }
    let top = firstLeadingBit(nonzero);
    let length = i32(32u * top + firstLeadingBit(limbs[top])) + 1;
    // Pairs of bits below the top ones.
    let dropped = (length - 49) >> 1u;
    var bits = 0u;
    var rest = 0u;
    for (var k = 24; k >= 0; k--) {
        let place = 2 * (dropped + k);
        var pair = 0u;
        if place >= 0 { pair = (limbs[u32(place) >> 5u] >> (u32(place) & 31u)) & 3u; }
        rest = (rest << 2u) | pair;
        let trial = (bits << 2u) | 1u;
        bits <<= 1u;
        if rest >= trial { rest -= trial; bits |= 1u; }
    }
    if dropped > 0 {
        let end = 2u * u32(dropped);
        rest |= nonzero & ((1u << (end >> 5u)) - 1u);
        rest |= limbs[end >> 5u] & ((1u << (end & 31u)) - 1u);
    }
    var significand = bits >> 1u;
    if (bits & 1u) == 1u && (rest != 0u || (significand & 1u) == 1u) { significand += 1u; }
    let carry = significand >> 24u;
    let fraction = (significand >> carry) & 0x7fffffu;
    return Wide(bitcast<f32>(0x3f800000u | fraction), dropped + i32(carry) - 125);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = flat_group(group, groups);
    if s < params.segment_count {
        let segment = segments[s];
        let word = lane % 32u;
        var total = vec2<u32>();
        if word < WORDS {
            for (var k = lane / 32u; k < segment.count; k += ROWS) {
                total = join(word, total, vec2(parts[part_index(segment, k) * WORDS + word], 0u));
            }
        }
        words[lane] = total;
        workgroupBarrier();
        if lane < 32u {
            for (var row = 1u; row < ROWS; row++) {
                total = join(word, total, words[32u * row + lane]);
            }
            words[lane] = total;
        }
        let limb = carry_limbs(lane, total.x, total.y);
        if lane < LIMBS {
            limbs[lane] = limb;
            sums[s].limbs[lane] = limb;
            if limb != 0u { atomicOr(&filled, 1u << lane); }
        }
        workgroupBarrier();
        if lane == 0u {
            var counts = vec3(words[LIMBS].x, words[LIMBS + 1u].x, words[LIMBS + 2u].x);
            // A count that has wrapped must not read as small, least of all as none.
            if words[LIMBS + 1u].y != 0u { counts.y = 0xffffffffu; }
            if words[LIMBS + 2u].y != 0u { counts.z = 0xffffffffu; }
            var norm = root(atomicLoad(&filled));
            if counts.y != 0u { norm = Wide(1.0, NONFINITE_EXPONENT); }
            sums[s].max_bits = counts.x;
            sums[s].nonfinite_count = counts.y;
            sums[s].zero_count = counts.z;
            sums[s].padding = 0u;
            norms[s] = TensorNorm(norm.significand, norm.exponent, counts.x, counts.y, counts.z);
        }
    }
}
