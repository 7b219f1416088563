// Functions that WGSL does not give, or does not give accurately enough.

// NaN and Inf by their exponent: WGSL lets compilers assume that neither exists, so a test on
// the float value may be folded away; the bits cannot be.
fn is_finite_bits(bits: u32) -> bool { return (bits & 0x7f800000u) != 0x7f800000u; }

// exp(x) where x may be very negative: below -87 the result is subnormal, so give 0.
fn exp_nonpositive(x: f32) -> f32 { return select(exp(max(x, -87.0)), 0.0, x < -87.0); }

// y, but NaN where x is NaN or Inf: what an overflow has left must not pass for a number.
fn poisoned(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let nan = bitcast<vec4<f32>>(bits | vec4(0x7fc00000u));
    return select(y, nan, (bits & vec4(0x7f800000u)) == vec4(0x7f800000u));
}
