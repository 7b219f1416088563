// The unit of storage: four consecutive elements as IEEE binary16, two to a word. Integer
// operations only: no device feature, the same bits everywhere, nothing flushed on the way.
alias Quad = vec2<u32>;

fn unpack(quad: Quad) -> vec4<f32> {
    return unpack_f16(vec4(quad.x & 0xffffu, quad.x >> 16u, quad.y & 0xffffu, quad.y >> 16u));
}

fn pack(values: vec4<f32>) -> Quad {
    let half = pack_f16(values);
    return vec2(half.x | (half.y << 16u), half.z | (half.w << 16u));
}
