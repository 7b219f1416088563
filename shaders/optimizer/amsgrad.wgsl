// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, v_max = max(v_max, v), w -= lr (m/c1 /
// (sqrt(v_max/c2) + eps) + decay w): AMSGrad (Reddi, Kale and Kumar 2018, arXiv 1904.09237) over
// AdamW, or over Adam, where g += l2 w comes first.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    eps: f32, l2_decay: f32, cautious_decay: u32,
}

@group(0) @binding(8) var<storage, read_write> v_max: array<vec4<f32>>;

// Largest |g| whose square is well within f32.
const LARGEST = 1e18;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let l2 = params.l2_decay * at.tensor.weight_decay;
    let decayed = clamp(g + l2 * w, vec4(-LARGEST), vec4(LARGEST));
    let moments = advance_moments(at, decayed);
    let largest = max(remembered(v_max[at.index], at.tensor), moments.v);
    v_max[at.index] = largest;
    let update = (moments.m * at.unbias1) / (corrected_root(largest, at) + params.eps);
    return -at.learning_rate * (update + shrink(at, w, update));
}
