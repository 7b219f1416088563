// Whether both have the same sign and neither is zero. Signs, because a product could underflow.
fn agrees(a: vec4<f32>, b: vec4<f32>) -> vec4<bool> {
    return sign(a) * sign(b) > vec4(0.0);
}
