// IEEE binary16 as integers: the same bits everywhere, nothing flushed on the way.

// Subnormal halves are normal in f32, so the product is exact and survives flushing.
fn unpack_f16(half: vec4<u32>) -> vec4<f32> {
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

// Rounds to nearest, ties to even. Overflow gives Inf, NaN stays NaN, subnormals are kept.
fn pack_f16(values: vec4<f32>) -> vec4<u32> {
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
    return sign | select(finite, nan, magnitude > vec4(0x7f800000u));
}
