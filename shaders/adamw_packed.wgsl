// AdamW for some of the tensors, whose moments lie packed: those of chunk c from packed[c] on. One
// workgroup per chunk; the learning rate has a factor of its own.
struct AdamwPackedParams {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    learning_rate_factor: f32,
}

@group(0) @binding(0) var<uniform> params: AdamwPackedParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> packed: array<u32>;
@group(0) @binding(4) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(7) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> v: array<vec4<f32>>;

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
        let lr = step.learning_rate * tensor.learning_rate * params.learning_rate_factor;
        let decay = params.weight_decay * tensor.weight_decay;
        let unbias1 = 1.0 / tensor.bias_correction1;
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let g = clipped(gradient[i], step, tensor);
            let moments = advance_moments(packed[c] + k, g, tensor);
            let root = corrected_root(moments.v, tensor);
            let update = (moments.m * unbias1) / (root + params.eps);
            store_weight(i, w, -lr * (update + decay * w), step);
        }
    }
}
