// w -= lr decay w + max(eps2, rms w) min(lr, 1/sqrt t) u / max(1, rms u / d), where
// u = g / sqrt(variance): Adafactor (Shazeer and Stern 2018, arXiv 1804.04235). The variance of a
// matrix is that of its rows and columns, that of a vector is kept here.
struct Params {
    chunk_count: u32, weight_decay: f32,
    decay_power: f32, eps1: f32, eps2: f32,
}

@group(0) @binding(6) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> shapes: array<FactoredTensor>;
@group(0) @binding(8) var<storage, read> factors: array<f32>;

fn advance(at: Place, w: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    let shape = shapes[at.row];
    let decay = at.learning_rate * params.weight_decay * at.tensor.weight_decay;
    let rho = min(at.learning_rate, inverseSqrt(f32(max(at.tensor.steps, 1u))));
    let size = max(params.eps2, factors[shape.weight_rms]) * rho * factors[shape.update_factor];
    let within = bounded(g);
    let own = vector_variance(at.weight_index, within, shape, at.tensor);
    if shape.rows == 0u { variance[shape.variance_cols + at.weight_index - shape.offset] = own; }
    return -(decay * w + size * normalized(at.weight_index, within, own, shape));
}
