// w -= lr (scale x + decay w), x being the orthogonalised momentum, packed. One workgroup per
// chunk, whose share of x starts at packed[c] - base.
struct MuonParams {
    chunk_count: u32,
    base: u32,
    scale: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: MuonParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> packed: array<u32>;
@group(0) @binding(4) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> weight: array<Weight>;

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
        let first = packed[c] - params.base;
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            store_weight(i, w, -lr * (params.scale * x[first + k] + decay * w), step);
        }
    }
}
