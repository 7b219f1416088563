// AdamW with a factor per tensor: on the learning rate (StableAdamW), or on those elements of the
// update that agree in sign with the gradient, the others being zero (cautious). Decay, if
// cautious, only where the update so masked has the sign of the weight. One workgroup per chunk.
struct AdamwScaledParams {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    factor: u32,
    cautious_decay: u32,
}

@group(0) @binding(0) var<uniform> params: AdamwScaledParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> factors: array<f32>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(7) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> v: array<vec4<f32>>;

const ON_LEARNING_RATE = 1u;
const ON_AGREEING = 2u;

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
        var lr = step.learning_rate * tensor.learning_rate;
        var mask = 1.0;
        if params.factor == ON_LEARNING_RATE { lr *= factors[chunk.tensor]; }
        if params.factor == ON_AGREEING { mask = factors[chunk.tensor]; }
        let decay = params.weight_decay * tensor.weight_decay;
        let unbias1 = 1.0 / tensor.bias_correction1;
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let g = clipped(gradient[i], step, tensor);
            let moments = advance_moments(i, g, tensor);
            let root = corrected_root(moments.v, tensor);
            let whole = (moments.m * unbias1) / (root + params.eps);
            let moves = agrees(moments.m, g) | vec4(params.factor != ON_AGREEING);
            let update = select(vec4(0.0), mask * whole, moves);
            let decays = agrees(update, w) | vec4(params.cautious_decay == 0u);
            let shrink = select(vec4(0.0), decay * w, decays);
            store_weight(i, w, -lr * (update + shrink), step);
        }
    }
}
