// u = sign(b1 m + (1-b1) g), w -= lr (u + decay w), m = b2 m + (1-b2) g: Lion. If cautious, u keeps
// only elements that agree in sign with the gradient, times the tensor's factor; decay, if
// cautious, only where u has the sign of the weight. One workgroup per chunk.
struct LionParams {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    weight_decay: f32,
    cautious: u32,
    cautious_decay: u32,
}

@group(0) @binding(0) var<uniform> params: LionParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> factors: array<f32>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(7) var<storage, read_write> m: array<vec4<f32>>;

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
        let lr = step.learning_rate * tensor.learning_rate;
        let decay = params.weight_decay * tensor.weight_decay;
        var mask = 1.0;
        if params.cautious != 0u { mask = factors[chunk.tensor]; }
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let g = clipped(gradient[i], step, tensor);
            let old = remembered(m[i], tensor);
            let blend = params.beta1 * old + params.one_minus_beta1 * g;
            m[i] = params.beta2 * old + params.one_minus_beta2 * g;
            let moves = agrees(blend, g) | vec4(params.cautious == 0u);
            let update = select(vec4(0.0), mask * sign(blend), moves);
            let decays = agrees(update, w) | vec4(params.cautious_decay == 0u);
            let shrink = select(vec4(0.0), decay * w, decays);
            store_weight(i, w, -lr * (update + shrink), step);
        }
    }
}
