// A moment as bf16, rounded up or down at random with the odds that make it right on average. A
// mean that moves by less than half of the last place in a step would stand still otherwise.
fn load_moment(words: vec2<u32>) -> vec4<f32> { return bitcast<vec4<f32>>(unpack_bf16(words)); }

// As weights are rounded: the carry of the lower half comes with probability (lower half) / 2^16.
fn round_moment(value: vec4<f32>, draw: vec4<u32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(value);
    let magnitude = bits & vec4(0x7fffffffu);
    let rounded = min(magnitude + draw, vec4(0x7f7fffffu));
    let kept = select(magnitude, magnitude | vec4(0x400000u), nan_bits(bits));
    let chosen = select(kept, rounded, magnitude < vec4(0x7f800000u));
    return pack_bf16((bits & vec4(0x80000000u)) | chosen);
}
