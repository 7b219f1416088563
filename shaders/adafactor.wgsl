// w -= lr decay w + max(eps2, rms w) min(lr, 1/sqrt t) u / max(1, rms u / d), u = g / sqrt(variance)
// with the variance of a matrix from its rows and columns, that of a vector kept here. One
// workgroup per chunk.
struct AdafactorParams {
    chunk_count: u32,
    decay_power: f32,
    eps1: f32,
    eps2: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: AdafactorParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> shapes: array<FactoredTensor>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(7) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> factors: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    let step = state;
    if c < params.chunk_count && step.verdict == APPLY {
        let chunk = chunks[c];
        let tensor = tensors[chunk.tensor];
        let shape = shapes[chunk.tensor];
        let lr = step.learning_rate * tensor.learning_rate;
        let decay = lr * params.weight_decay * tensor.weight_decay;
        let rho = min(lr, inverseSqrt(f32(max(tensor.steps, 1u))));
        let size = max(params.eps2, factors[shape.weight_rms]) * rho * factors[shape.update_factor];
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let g = bounded(clipped(gradient[i], step, tensor));
            let own = vector_variance(i, g, shape, tensor);
            if shape.rows == 0u { variance[shape.variance_cols + i - shape.offset] = own; }
            store_weight(i, w, -(decay * w + size * normalized(i, g, own, shape)), step);
        }
    }
}
