// g += decay w, m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= lr m/c1 / (sqrt(v/c2) + eps):
// Adam with L2 decay; c1, c2 are the bias corrections. One workgroup per chunk.
struct AdamParams {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: AdamParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> v: array<vec4<f32>>;

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
            let w = load_weight(i);
            let decayed = clipped(gradient[i], step, tensor) + decay * w;
            let g = clamp(decayed, vec4(-LARGEST), vec4(LARGEST));
            let mi = params.beta1 * remembered(m[i], tensor) + params.one_minus_beta1 * g;
            let vi = params.beta2 * remembered(v[i], tensor) + params.one_minus_beta2 * (g * g);
            m[i] = mi;
            v[i] = vi;
            // The bound keeps the root off 0, where WGSL does not promise it, and far below eps.
            let root = sqrt(max(vi * unbias2, vec4(SMALLEST_NORMAL)));
            let update = (mi * unbias1) / (root + params.eps);
            store_weight(i, w, -lr * update, step);
        }
    }
}

const SMALLEST_NORMAL = 1.17549435e-38;
// Largest |g| whose square is well within f32.
const LARGEST = 1e18;
