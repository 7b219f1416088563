// The unit of storage: four consecutive elements as bfloat16, the upper half of an f32, two to a
// word. Integer operations only, so the bits are the same everywhere.
alias Quad = vec2<u32>;

fn unpack(quad: Quad) -> vec4<f32> {
    let high = vec2(0xffff0000u);
    let even = quad << vec2(16u);
    let odd = quad & high;
    return bitcast<vec4<f32>>(vec4(even.x, odd.x, even.y, odd.y));
}

// Rounds to nearest, ties to even. Overflow gives Inf, NaN stays NaN, subnormals are kept.
fn pack_bf16(values: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(values);
    let rounded = (bits + vec4(0x7fffu) + ((bits >> vec4(16u)) & vec4(1u))) >> vec4(16u);
    let nan = (bits >> vec4(16u)) | vec4(0x40u);
    return select(rounded, nan, (bits & vec4(0x7fffffffu)) > vec4(0x7f800000u));
}

fn pack(values: vec4<f32>) -> Quad {
    let half = pack_bf16(values);
    return vec2(half.x | (half.y << 16u), half.z | (half.w << 16u));
}
