// u = sign(b1 m + (1-b1) g), w -= lr (u + decay w), m = b2 m + (1-b2) g: Lion (Chen et al. 2023,
// arXiv 2302.06675). If cautious, u keeps only elements that agree in sign with the gradient, times
// the tensor's factor. Decay may be cautious too.
struct Params {
    chunk_count: u32, weight_decay: f32,
    beta1: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32,
    cautious: u32, cautious_decay: u32,
}

@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> factors: array<f32>;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let old = remembered(m[at.index], at.tensor);
    let blend = params.beta1 * old + params.one_minus_beta1 * g;
    m[at.index] = params.beta2 * old + params.one_minus_beta2 * g;
    var update = sign(blend);
    if params.cautious != 0u {
        update = select(vec4(0.0), factors[at.row] * update, agrees(blend, g));
    }
    return -at.learning_rate * (update + shrink(at, w, update));
}
