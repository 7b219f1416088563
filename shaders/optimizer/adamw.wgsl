// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= lr (m/c1 / (sqrt(v/c2) + eps) + decay w): AdamW,
// decay decoupled (Loshchilov and Hutter 2019, arXiv 1711.05101); c1, c2 are the bias corrections.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    eps: f32,
}

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let moments = advance_moments(at, g);
    let update = (moments.m * at.unbias1) / (corrected_root(moments.v, at) + params.eps);
    return -at.learning_rate * (update + at.weight_decay * w);
}
