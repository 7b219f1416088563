// Four numbers in IEEE binary16, two to a word, read by integers: the same bits everywhere, nothing
// flushed on the way.

// Subnormal halves are normal in f32, so the product is exact and survives flushing.
fn unpack_f16(words: vec2<u32>) -> vec4<f32> {
    let half = vec4(words.x, words.x >> 16u, words.y, words.y >> 16u);
    let magnitude = half & vec4(0x7fffu);
    let sign = (half & vec4(0x8000u)) << vec4(16u);
    let is_special = magnitude >= vec4(0x7c00u);
    let is_subnormal = magnitude < vec4(0x400u);
    let quiet = select(vec4(0u), vec4(0x400000u), magnitude > vec4(0x7c00u));
    let bias = select(vec4(0x38000000u), vec4(0x70000000u), is_special);
    let subnormal = bitcast<vec4<u32>>(vec4<f32>(magnitude) * 5.9604644775390625e-8);
    let normal = ((magnitude << vec4(13u)) + bias) | quiet;
    return bitcast<vec4<f32>>(sign | select(normal, subnormal, is_subnormal));
}
