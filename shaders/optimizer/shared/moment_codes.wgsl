// Moments in codes of 8 bits, in blocks of 256 with the largest magnitude of each: block-wise
// dynamic quantization (Dettmers et al. 2022, arXiv 2110.02861). A magnitude is a number n in
// binary: the place k of its leading one is a decade, what follows is a linear fraction within it,
// in the middle of 2^k equal parts. 1 stands for 0, and 2^bits for the whole. First moments have a
// sign and 7 bits, second ones 8 bits.
const BLOCK_QUADS = 64u;
const BLOCKS = 8u; // to a chunk

// Below it decoded numbers would not be normal.
const SMALLEST_SCALE = 1e-30;

fn code_value(n: vec4<u32>, bits: u32) -> vec4<f32> {
    let k = firstLeadingBit(n);
    let parts = vec4(1u) << k;
    var value = 0.1 + 0.9 * ((vec4<f32>(n - parts) + 0.5) / vec4<f32>(parts));
    for (var d = 1u; d < bits - 1u; d++) {
        value = select(value, 0.1 * value, k + d < vec4(bits));
    }
    let whole = select(value, vec4(1.0), n >= vec4(1u << bits));
    return select(whole, vec4(0.0), n <= vec4(1u));
}

// The largest code whose value is not above x in [0, 1], but that of the whole; within rounding.
fn code_below(x: vec4<f32>, bits: u32) -> vec4<u32> {
    var k = vec4(bits - 1u);
    var y = x;
    for (var d = 1u; d < bits - 1u; d++) {
        let is_less = y < vec4(0.1);
        y = select(y, 10.0 * y, is_less);
        k = select(k, k - 1u, is_less);
    }
    let parts = vec4(1u) << k;
    let part = floor((y - 0.1) / 0.9 * vec4<f32>(parts) - 0.5);
    let n = vec4<i32>(parts) + vec4<i32>(part);
    return vec4<u32>(clamp(n, vec4(1), vec4((1i << bits) - 1)));
}

// One of the two codes around x: the upper one with the share of the way to it that x has come.
fn round_code(x: vec4<f32>, bits: u32, draw: vec4<u32>) -> vec4<u32> {
    let below = code_below(x, bits);
    let low = code_value(below, bits);
    let share = (x - low) / (code_value(below + 1u, bits) - low);
    return select(below, below + 1u, share * 65536.0 > vec4<f32>(draw) + 0.5);
}

fn pack_codes(codes: vec4<u32>) -> u32 {
    let at = codes << vec4(0u, 8u, 16u, 24u);
    return (at.x | at.y) | (at.z | at.w);
}
fn unpack_codes(word: u32) -> vec4<u32> {
    return (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
}

fn load_signed(word: u32, scale: u32) -> vec4<f32> {
    let codes = unpack_codes(word);
    let value = code_value((codes & vec4(127u)) + 1u, 7u) * bitcast<f32>(scale);
    return select(value, -value, codes > vec4(127u));
}
fn load_square(word: u32, scale: u32) -> vec4<f32> {
    return code_value(unpack_codes(word) + 1u, 8u) * bitcast<f32>(scale);
}

// There is one zero.
fn store_signed(value: vec4<f32>, scale: f32, draw: vec4<u32>) -> u32 {
    let code = round_code(abs(value) / scale, 7u, draw) - 1u;
    return pack_codes(select(code, code | vec4(128u), (value < vec4(0.0)) & (code > vec4(0u))));
}
// A square that is not zero stays so: what is divided by its root would grow without a bound.
fn store_square(value: vec4<f32>, scale: f32, draw: vec4<u32>) -> u32 {
    let code = round_code(value / scale, 8u, draw) - 1u;
    return pack_codes(select(code, max(code, vec4(1u)), value > vec4(0.0)));
}

fn largest_bits(value: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(abs(value));
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
fn scale_of(bits: u32) -> f32 { return max(bitcast<f32>(bits), SMALLEST_SCALE); }

// The block that the workgroup is at. In front of a buffer's codes, a word for a quad, are the
// scales of all blocks.
var<private> block: u32;

fn codes_at(i: u32) -> u32 { return params.chunk_count * BLOCKS + i; }
