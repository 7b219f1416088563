// Of each chunk: sum g^2 / max(v/c2, eps^2) with v = b2 v + (1-b2) g^2, which is not kept. One
// workgroup per chunk; padding adds nothing.
struct SquaredRatioParams { chunk_count: u32, beta2: f32, one_minus_beta2: f32, eps: f32 }

@group(0) @binding(0) var<uniform> params: SquaredRatioParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;

const SMALLEST_NORMAL = 1.17549435e-38;

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
        let unbias2 = 1.0 / tensor.bias_correction2;
        var sum = vec4<f32>();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let g = clipped(gradient[i], step, tensor);
            let old = remembered(v[chunk.kept + k], tensor);
            let vi = params.beta2 * old + params.one_minus_beta2 * (g * g);
            let root = sqrt(max(vi * unbias2, vec4(SMALLEST_NORMAL)));
            // Divided before it is squared: eps^2 may be below f32.
            let ratio = g / max(root, vec4(params.eps));
            sum += ratio * ratio;
        }
        let total = workgroup_sum(lane, sum4(sum));
        if lane == 0u { partials[c] = total; }
    }
}
