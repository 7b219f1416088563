// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, v_max = max(v_max, v), w -= lr (m/c1 /
// (sqrt(v_max/c2) + eps) + decay w): AMSGrad over AdamW, or over Adam, where g += l2 w comes first.
// One workgroup per chunk.
struct AmsgradParams {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    weight_decay: f32,
    l2_decay: f32,
    cautious_decay: u32,
}

@group(0) @binding(0) var<uniform> params: AmsgradParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> v_max: array<vec4<f32>>;

// Largest |g| whose square is well within f32.
const LARGEST = 1e18;

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
        let l2 = params.l2_decay * tensor.weight_decay;
        let unbias1 = 1.0 / tensor.bias_correction1;
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let decayed = clipped(gradient[i], step, tensor) + l2 * w;
            let moments = advance_moments(i, clamp(decayed, vec4(-LARGEST), vec4(LARGEST)), tensor);
            let largest = max(remembered(v_max[i], tensor), moments.v);
            v_max[i] = largest;
            let root = corrected_root(largest, tensor);
            let update = (moments.m * unbias1) / (root + params.eps);
            let decays = agrees(update, w) | vec4(params.cautious_decay == 0u);
            let shrink = select(vec4(0.0), decay * w, decays);
            store_weight(i, w, -lr * (update + shrink), step);
        }
    }
}
