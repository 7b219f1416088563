// Adam's two moments in the kernel's buffers `m` and `v`, advanced by one gradient.
struct Moments { m: vec4<f32>, v: vec4<f32> }

const SMALLEST_NORMAL = 1.17549435e-38;

// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2 at quad i of both buffers.
fn advance_moments(i: u32, g: vec4<f32>, tensor: TensorState) -> Moments {
    let mi = params.beta1 * remembered(m[i], tensor) + params.one_minus_beta1 * g;
    let vi = params.beta2 * remembered(v[i], tensor) + params.one_minus_beta2 * (g * g);
    m[i] = mi;
    v[i] = vi;
    return Moments(mi, vi);
}

// sqrt(v / c2). The bound keeps the root off 0, where WGSL does not promise it, and far below eps.
fn corrected_root(second: vec4<f32>, tensor: TensorState) -> vec4<f32> {
    let unbias2 = 1.0 / tensor.bias_correction2;
    return sqrt(max(second * unbias2, vec4(SMALLEST_NORMAL)));
}
