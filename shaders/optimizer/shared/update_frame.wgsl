// The frame of every optimizer: one workgroup per chunk asks the rule, which is the kernel's
// `advance`, what to add to each quad of weights. The gradient it gets is unscaled and clipped. A
// skipped step writes nothing. `Params` is the kernel's and begins with chunk_count, weight_decay;
// buffers of its own follow at binding 6.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> weight: array<Weight>;

// Where a rule is at work, and what holds there.
struct Place {
    index: u32, // quad in what is kept of each weight
    weight_index: u32, // quad in the flat buffers of weights and gradients
    chunk: u32, // row of `chunks`
    quad: u32, // quad in the chunk
    row: u32, // row of `tensors`
    tensor: TensorState,
    learning_rate: f32, // of this tensor in this step
    weight_decay: f32, // of this tensor
    unbias1: f32, // 1 / bias corrections
    unbias2: f32,
}

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
        let unbias1 = 1.0 / tensor.bias_correction1;
        let unbias2 = 1.0 / tensor.bias_correction2;
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let kept = chunk.kept + k;
            let at = Place(kept, i, c, k, chunk.tensor, tensor, lr, decay, unbias1, unbias2);
            let w = load_weight(i);
            let g = clipped(gradient[i], step, tensor);
            store_weight(i, w, advance(at, w, g), step);
        }
    }
}
