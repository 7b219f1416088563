// AdamW with a factor per tensor: on the learning rate (StableAdamW, Wortsman et al. 2023, arXiv
// 2304.13013), or on those elements of the update that agree in sign with the gradient, the others
// being zero (cautious, Liang et al. 2024, arXiv 2411.16085). Decay may be cautious of that update.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    eps: f32, factor: u32, cautious_decay: u32,
}

@group(0) @binding(8) var<storage, read> factors: array<f32>;

const ON_LEARNING_RATE = 1u;
const ON_AGREEING = 2u;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let moments = advance_moments(at, g);
    let whole = (moments.m * at.unbias1) / (corrected_root(moments.v, at) + params.eps);
    var lr = at.learning_rate;
    if params.factor == ON_LEARNING_RATE { lr *= factors[at.row]; }
    var update = whole;
    if params.factor == ON_AGREEING {
        update = select(vec4(0.0), factors[at.row] * whole, agrees(moments.m, g));
    }
    return -lr * (update + shrink(at, w, update));
}
