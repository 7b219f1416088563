// What Adam's rules make of their moments.
struct Moments { m: vec4<f32>, v: vec4<f32> }

const SMALLEST_NORMAL = 1.17549435e-38;

// sqrt(v / c2). The bound keeps the root off 0, where WGSL does not promise it, and far below eps.
fn corrected_root(second: vec4<f32>, at: Place) -> vec4<f32> {
    return sqrt(max(second * at.unbias2, vec4(SMALLEST_NORMAL)));
}
