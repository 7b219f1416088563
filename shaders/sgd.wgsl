// g += decay w, b = momentum b + (1 - dampening) g, w -= lr b, with nesterov lr (g + momentum b);
// b = g on the first step, and without momentum, where the buffer is neither read nor written.
// One workgroup per chunk.
struct SgdParams {
    chunk_count: u32,
    momentum: f32,
    dampening: f32,
    nesterov: u32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: SgdParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(6) var<storage, read_write> momentum_buffer: array<vec4<f32>>;

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
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            var update = clipped(gradient[i], step, tensor) + decay * w;
            if params.momentum != 0.0 {
                var b = update;
                if tensor.steps > 1u {
                    b = params.momentum * momentum_buffer[i] + (1.0 - params.dampening) * update;
                }
                momentum_buffer[i] = b;
                update = select(b, update + params.momentum * b, params.nesterov != 0u);
            }
            store_weight(i, w, -lr * update, step);
        }
    }
}
