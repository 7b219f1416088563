// AdamW for some of the tensors, whose moments lie packed: those of chunk c from packed[c] on. The
// learning rate has a factor of its own.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    eps: f32, learning_rate_factor: f32,
}

@group(0) @binding(8) var<storage, read> packed: array<u32>;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    var place = at;
    place.index = packed[at.chunk] + at.quad;
    let moments = advance_moments(place, g);
    let update = (moments.m * at.unbias1) / (corrected_root(moments.v, at) + params.eps);
    let lr = at.learning_rate * params.learning_rate_factor;
    return -lr * (update + at.weight_decay * w);
}
