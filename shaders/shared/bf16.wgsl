// bfloat16 is the upper half of an f32. Integer operations only, so the bits are the same
// everywhere; four numbers lie in two words.

// Four numbers as bits of f32; their lower halves are zero.
fn unpack_bf16(words: vec2<u32>) -> vec4<u32> {
    let even = words << vec2(16u);
    let odd = words & vec2(0xffff0000u);
    return vec4(even.x, odd.x, even.y, odd.y);
}

// The upper halves of four words.
fn pack_bf16(bits: vec4<u32>) -> vec2<u32> {
    return (bits.xz >> vec2(16u)) | (bits.yw & vec2(0xffff0000u));
}

// Whether bits of f32 are NaN.
fn nan_bits(bits: vec4<u32>) -> vec4<bool> {
    return (bits & vec4(0x7fffffffu)) > vec4(0x7f800000u);
}

// Rounds bits of f32 to nearest, ties to even; the lower halves become zero. Overflow gives Inf,
// NaN stays NaN, subnormals are kept.
fn round_bf16(bits: vec4<u32>) -> vec4<u32> {
    let rounded = bits + vec4(0x7fffu) + ((bits >> vec4(16u)) & vec4(1u));
    return select(rounded, bits | vec4(0x400000u), nan_bits(bits)) & vec4(0xffff0000u);
}
