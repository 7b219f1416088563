// Four numbers as IEEE binary16, two to a word, by integers: the same bits everywhere. Rounds to
// nearest, ties to even. Overflow gives Inf, NaN stays NaN, subnormals are kept.
fn round_f16(values: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(values);
    let magnitude = bits & vec4(0x7fffffffu);
    let sign = (bits >> vec4(16u)) & vec4(0x8000u);
    let exponent = magnitude >> vec4(23u);

    let odd = (magnitude >> vec4(13u)) & vec4(1u);
    let rounded = (magnitude + vec4(0xfffu) + odd) >> vec4(13u);
    let normal = min(rounded - min(rounded, vec4(0x1c000u)), vec4(0x7c00u));

    // In units of 2^-24; below half a unit every shift of 25 gives 0.
    let significand = (magnitude & vec4(0x7fffffu)) | vec4(0x800000u);
    let shift = min(vec4(126u) - min(exponent, vec4(125u)), vec4(25u));
    let odd_unit = (significand >> shift) & vec4(1u);
    let half_unit = vec4(1u) << (shift - vec4(1u));
    let subnormal = (significand + half_unit - vec4(1u) + odd_unit) >> shift;

    let nan = ((magnitude >> vec4(13u)) & vec4(0x3ffu)) | vec4(0x7e00u);
    let finite = select(normal, subnormal, magnitude < vec4(0x38800000u));
    let half = sign | select(finite, nan, magnitude > vec4(0x7f800000u));
    return half.xz | (half.yw << vec2(16u));
}
