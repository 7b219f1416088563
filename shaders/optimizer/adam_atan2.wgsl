// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= lr (a atan2(m/c1, b sqrt(v/c2)) + decay w):
// Adam-atan2 (Everett et al. 2024, arXiv 2407.05872), which needs no eps.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    a: f32, b: f32, cautious_decay: u32,
}

// atan2(y, x) for x > 0 within a few ULP; WGSL allows its own an error of 4096. The quotient is at
// most 1, arguments above tan(pi/8) are turned by pi/4, and Cephes' polynomial does the rest.
fn atan2_positive(y: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    let size = abs(y);
    let t = min(size, x) / max(size, x);
    let turned = t > vec4(0.41421357);
    let s = select(t, (t - 1.0) / (t + 1.0), turned);
    let z = s * s;
    let series = ((0.0805374450 * z - 0.138776856) * z + 0.199777106) * z - 0.333329491;
    let low = select(vec4(0.0), vec4(0.7853982), turned) + (s + s * z * series);
    let angle = select(low, 1.5707964 - low, size > x);
    return select(angle, -angle, y < vec4(0.0));
}

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let moments = advance_moments(at, g);
    let root = max(params.b * corrected_root(moments.v, at), vec4(SMALLEST_NORMAL));
    let update = params.a * atan2_positive(moments.m * at.unbias1, root);
    return -at.learning_rate * (update + shrink(at, w, update));
}
