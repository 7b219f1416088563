// Of each chunk: in how many elements b1 m + (1-b1) g and g have the same sign. One workgroup per
// chunk; padding has no sign.
struct AgreementParams { chunk_count: u32, beta1: f32, one_minus_beta1: f32 }

@group(0) @binding(0) var<uniform> params: AgreementParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> m: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let step = state;
        let chunk = chunks[c];
        let tensor = tensors[chunk.tensor];
        var count = vec4<f32>();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let g = clipped(gradient[i], step, tensor);
            let old = remembered(m[chunk.kept + k], tensor);
            let blend = params.beta1 * old + params.one_minus_beta1 * g;
            count += select(vec4(0.0), vec4(1.0), agrees(blend, g));
        }
        let total = workgroup_sum(lane, sum4(count));
        if lane == 0u { partials[c] = total; }
    }
}
