// Of each chunk: the exact sum of g^2, max |g| as bits, and how many g are not finite or zero.
// One workgroup per chunk, 8 quads per invocation; all in integers, so order does not matter.
struct GradientScanExactParams { chunk_count: u32, overflow_bits: u32 }

@group(0) @binding(0) var<uniform> params: GradientScanExactParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> partials: array<ExactSum>;

const DIGITS = 2u * LIMBS;
// Invocations that add to the same digit wait for each other; copies of the digits part them.
const COPIES = 8u;

// sum = sum_d digits[d] * 2^(16 d - 298), with room for carries above the 16 bits.
var<workgroup> digits: array<array<atomic<u32>, DIGITS>, COPIES>;
var<workgroup> max_bits: atomic<u32>;
var<workgroup> nonfinite_count: atomic<u32>;
var<workgroup> filled_count: atomic<u32>;

// 128 bits of an invocation's own sum, from digit `base` on. Each limb's carries are counted apart.
struct Window { base: u32, limbs: vec4<u32>, carries: vec4<u32> }

// m^2 for m < 2^24, in 48 bits.
fn square(m: u32) -> vec2<u32> {
    let high = m >> 16u;
    let low = m & 0xffffu;
    return vec2(m * m, high * high + ((2u * high * low + ((low * low) >> 16u)) >> 16u));
}

// x * 2^shift for shift < 32.
fn shifted(x: vec2<u32>, shift: u32) -> vec3<u32> {
    let spill = (x >> vec2(1u)) >> vec2(31u - shift);
    return vec3(x.x << shift, (x.y << shift) | spill.x, spill.y);
}

// Adds g^2. Where g^2 reaches below the window it goes to the digits at once: that is rare, as
// the window reaches down to 2^-33 of the invocation's largest element.
fn add_square(window: Window, bits: u32, copy: u32) -> Window {
    var sum = window;
    let place = 2u * exponent_bits(bits) - 2u;
    let m2 = square(significand_bits(bits));
    if place >= 16u * window.base {
        let above = place - 16u * window.base;
        let w = shifted(m2, above & 31u);
        var term = vec4(w, 0u);
        if above >= 64u { term = vec4(0u, 0u, w.xy); } else if above >= 32u { term = vec4(0u, w); }
        sum.limbs += term;
        sum.carries += select(vec4(0u), vec4(1u), sum.limbs < term);
    } else if bits != 0u {
        let w = shifted(m2, place & 15u);
        let d = place >> 4u;
        atomicAdd(&digits[copy][d], w.x & 0xffffu);
        atomicAdd(&digits[copy][d + 1u], w.x >> 16u);
        atomicAdd(&digits[copy][d + 2u], w.y & 0xffffu);
        atomicAdd(&digits[copy][d + 3u], w.y >> 16u);
    }
    return sum;
}

// One invocation's share of the chunk, of which the largest element is known.
fn add_squares(chunk: Chunk, lane: u32, largest: u32) {
    let copy = lane % COPIES;
    // The largest square ends within the window's 128 bits, as high up as the digits allow.
    let place = 2u * exponent_bits(largest) - 2u;
    var window = Window((max(place, 80u) - 65u) / 16u, vec4<u32>(), vec4<u32>());
    for (var i = lane; i < chunk.quads; i += 64u) {
        let bits = magnitude(chunk, i);
        let finite = bits * (vec4(1u) - nonfinite(bits));
        window = add_square(window, finite.x, copy);
        window = add_square(window, finite.y, copy);
        window = add_square(window, finite.z, copy);
        window = add_square(window, finite.w, copy);
    }
    let low = (window.limbs & vec4(0xffffu)) + vec4(0u, window.carries.xyz);
    for (var k = 0u; k < 4u; k++) {
        atomicAdd(&digits[copy][window.base + 2u * k], low[k]);
        atomicAdd(&digits[copy][window.base + 2u * k + 1u], window.limbs[k] >> 16u);
    }
    atomicAdd(&digits[copy][window.base + 8u], window.carries.w);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        let found = survey(chunk, lane);
        add_squares(chunk, lane, found.max_bits);
        atomicMax(&max_bits, found.max_bits);
        atomicAdd(&nonfinite_count, found.nonfinite_count);
        atomicAdd(&filled_count, found.zero_count);
        workgroupBarrier();
        var pair = vec2<u32>();
        if lane < LIMBS {
            for (var copy = 0u; copy < COPIES; copy++) {
                pair.x += atomicLoad(&digits[copy][2u * lane]);
                pair.y += atomicLoad(&digits[copy][2u * lane + 1u]);
            }
        }
        let low = pair.x + (pair.y << 16u);
        let limb = carry_limbs(lane, low, (pair.y >> 16u) + select(0u, 1u, low < pair.x));
        if lane < LIMBS { partials[c].limbs[lane] = limb; }
        if lane == 0u {
            partials[c].max_bits = atomicLoad(&max_bits);
            partials[c].nonfinite_count = atomicLoad(&nonfinite_count);
            partials[c].zero_count = chunk.elements - atomicLoad(&filled_count);
            partials[c].padding = 0u;
        }
    }
}
