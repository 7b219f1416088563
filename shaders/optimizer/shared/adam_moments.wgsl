// Adam's two moments, and how one gradient advances them. Further buffers of the kernel follow at
// binding 8.
@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> v: array<vec4<f32>>;

// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2 at quad at.index of both buffers.
fn advance_moments(at: Place, g: vec4<f32>) -> Moments {
    let i = at.index;
    let mi = params.beta1 * remembered(m[i], at.tensor) + params.one_minus_beta1 * g;
    let vi = params.beta2 * remembered(v[i], at.tensor) + params.one_minus_beta2 * (g * g);
    m[i] = mi;
    v[i] = vi;
    return Moments(mi, vi);
}
