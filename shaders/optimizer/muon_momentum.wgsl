// b = mu b + (1-mu) g, x = b or, with nesterov, (1-mu) g + mu b. One workgroup per chunk; b lies
// packed, the chunk's from packed[c] on, x as b from `base` on. A skipped step leaves b alone.
struct MuonMomentumParams {
    chunk_count: u32,
    base: u32,
    momentum: f32,
    one_minus_momentum: f32,
    nesterov: u32,
}

@group(0) @binding(0) var<uniform> params: MuonMomentumParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> packed: array<u32>;
@group(0) @binding(4) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> momentum_buffer: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> x: array<vec4<f32>>;

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
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = packed[c] + k;
            let g = params.one_minus_momentum * clipped(gradient[chunk.offset + k], step, tensor);
            let b = params.momentum * remembered(momentum_buffer[i], tensor) + g;
            momentum_buffer[i] = b;
            x[i - params.base] = select(b, g + params.momentum * b, params.nesterov != 0u);
        }
    }
}
