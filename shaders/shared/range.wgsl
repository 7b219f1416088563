// Powers of two that keep squares within f32. Scaling by them is exact. Only where a sum of squares
// leaves f32 is anything scaled, so that all else keeps its bits and pays nothing.

// Bits from which on a sum of squares has overflowed, or all but: those of NaN and Inf too.
const OVERFLOWED = 0x7f000000u;

fn overflowed(sum: f32) -> bool { return bitcast<u32>(sum) >= OVERFLOWED; }

// 2^-e, with 2^e at or below the magnitude that has these bits; NaN for those of NaN and Inf, so
// that everything computed with it is NaN.
fn scale_below(magnitude: u32) -> f32 {
    let exponent = clamp(magnitude >> 23u, 1u, 253u);
    let scale = (254u - exponent) << 23u;
    return bitcast<f32>(select(scale, 0x7fc00000u, magnitude >= 0x7f800000u));
}

// Largest magnitude of four numbers, as bits.
fn magnitude4(values: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(values) & vec4(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
