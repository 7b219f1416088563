// Deviations from a mean that is kept as shift + rest: x - shift is exact where the mean is large
// beside the spread, and what the rest is rounded by is small beside it as well.

// 0, which the compiler does not know: no grid has a third dimension.
fn hidden_zero(groups: vec3<u32>) -> u32 { return groups.z - 1u; }

// x itself: fast math does not see through integers, so it takes x as it is.
fn hidden(x: vec4<f32>, zero: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4(zero));
}

// A shift in scaled numbers. Fast math would make (x - shift) scale of x scale - shift scale, whose
// difference overflows where the scale is there to prevent it.
fn scaled_shift(shift: vec4<f32>, scale: vec4<f32>, zero: u32) -> vec4<f32> {
    return hidden(shift * scale, zero);
}

// (x - shift) - rest, in this order: fast math would add shift and rest up first, as they are the
// same for all x, and so round the mean.
fn centred(x: vec4<f32>, shift: vec4<f32>, rest: vec4<f32>, zero: u32) -> vec4<f32> {
    return hidden(x - shift, zero) - rest;
}

// Beyond how many standard deviations, squared, a shift counts as far from the mean.
const FAR = 64.0;

// Numbers whose squared mean exceeds this share of their mean square are ten times as far from 0 as
// from each other.
const ALIKE = 0.99;
