// Lion (lion.wgsl) without what is cautious, over a momentum that the kernel loads and keeps.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
}

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let old = remembered(load_momentum(at.index), at.tensor);
    let blend = params.beta1 * old + params.one_minus_beta1 * g;
    keep_momentum(at, params.beta2 * old + params.one_minus_beta2 * g);
    return -at.learning_rate * (sign(blend) + at.weight_decay * w);
}
