// g += decay w, m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= lr m/c1 / (sqrt(v/c2) + eps): Adam
// (Kingma and Ba 2015, arXiv 1412.6980) with L2 decay; c1, c2 are the bias corrections.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    eps: f32,
}

// Largest |g| whose square is well within f32.
const LARGEST = 1e18;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let decayed = clamp(g + at.weight_decay * w, vec4(-LARGEST), vec4(LARGEST));
    let moments = advance_moments(at, decayed);
    let update = (moments.m * at.unbias1) / (corrected_root(moments.v, at) + params.eps);
    return -at.learning_rate * update;
}
