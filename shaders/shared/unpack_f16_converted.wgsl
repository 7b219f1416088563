// Four numbers in IEEE binary16, two to a word, read by the device's own conversion, which WGSL lets
// flush subnormal halves: every half is asked for before this is used.
fn unpack_f16(words: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}
