// The unit of storage: four consecutive elements as f32, here two words of 64 bits. Drivers that
// run shaders on the vector units of a CPU pay for loads and stores by the word, however wide.
alias Quad = vec2<u64>;

fn unpack(quad: Quad) -> vec4<f32> {
    let bits = vec4(u32(quad.x), u32(quad.x >> 32u), u32(quad.y), u32(quad.y >> 32u));
    return bitcast<vec4<f32>>(bits);
}

fn pack(values: vec4<f32>) -> Quad {
    let bits = bitcast<vec4<u32>>(values);
    return vec2(u64(bits.x) | (u64(bits.y) << 32u), u64(bits.z) | (u64(bits.w) << 32u));
}
