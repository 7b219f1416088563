// The unit of storage: four consecutive elements as IEEE binary16, two to a word, read by the device's
// own conversion. Where that flushes nothing is asked before it is used.
alias Quad = vec2<u32>;

fn unpack(quad: Quad) -> vec4<f32> {
    return vec4(unpack2x16float(quad.x), unpack2x16float(quad.y));
}

fn pack(values: vec4<f32>) -> Quad {
    let half = pack_f16(values);
    return vec2(half.x | (half.y << 16u), half.z | (half.w << 16u));
}
