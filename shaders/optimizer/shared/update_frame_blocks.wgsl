// The frame of optimizers (update_frame.wgsl) whose memory lies in blocks of 64 quads: the
// invocations of a workgroup are at one block at a time, and meet before they store it. A kernel
// says how: `open_block`, `close_block`.
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
    if c < params.chunk_count && state.verdict == APPLY {
        let step = state;
        let chunk = chunks[c];
        let tensor = tensors[chunk.tensor];
        let lr = step.learning_rate * tensor.learning_rate;
        let decay = params.weight_decay * tensor.weight_decay;
        let unbias1 = 1.0 / tensor.bias_correction1;
        let unbias2 = 1.0 / tensor.bias_correction2;
        for (var first = 0u; first < chunk.quads; first += BLOCK_QUADS) {
            let k = first + lane;
            let i = chunk.offset + k;
            let kept = chunk.kept + k;
            block = c * BLOCKS + first / BLOCK_QUADS;
            if lane == 0u { open_block(); }
            workgroupBarrier();
            if k < chunk.quads {
                let at = Place(kept, i, c, k, chunk.tensor, tensor, lr, decay, unbias1, unbias2);
                let w = load_weight(i);
                let g = clipped(gradient[i], step, tensor);
                store_weight(i, w, advance(at, w, g), step);
            }
            workgroupBarrier();
            if k < chunk.quads { close_block(i, kept, lane == 0u); }
            workgroupBarrier();
        }
    }
}
