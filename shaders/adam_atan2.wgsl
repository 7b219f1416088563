// m = b1 m + (1-b1) g, v = b2 v + (1-b2) g^2, w -= lr (a atan2(m/c1, b sqrt(v/c2)) + decay w):
// Adam-atan2, which needs no eps. One workgroup per chunk.
struct AdamAtan2Params {
    chunk_count: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    a: f32,
    b: f32,
    weight_decay: f32,
    cautious_decay: u32,
}

@group(0) @binding(0) var<uniform> params: AdamAtan2Params;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> v: array<vec4<f32>>;

// atan2(y, x) for x > 0 within a few ULP; WGSL allows its own an error of 4096. The quotient is at
// most 1, arguments above tan(pi/8) are turned by pi/4, and Cephes' polynomial does the rest.
fn atan2_positive(y: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    let size = abs(y);
    let t = min(size, x) / max(size, x);
    let turned = t > vec4(0.41421357);
    let s = select(t, (t - 1.0) / (t + 1.0), turned);
    let z = s * s;
    let series = ((0.0805374450 * z - 0.138776856) * z + 0.199777106) * z - 0.333329491;
    let low = select(vec4(0.0), vec4(0.7853982), turned) + (s + s * z * series);
    let angle = select(low, 1.5707964 - low, size > x);
    return select(angle, -angle, y < vec4(0.0));
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
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let w = load_weight(i);
            let moments = advance_moments(i, clipped(gradient[i], step, tensor), tensor);
            let root = params.b * corrected_root(moments.v, tensor);
            let angle = atan2_positive(moments.m * unbias1, max(root, vec4(SMALLEST_NORMAL)));
            let update = params.a * angle;
            let decays = agrees(update, w) | vec4(params.cautious_decay == 0u);
            let shrink = select(vec4(0.0), decay * w, decays);
            store_weight(i, w, -lr * (update + shrink), step);
        }
    }
}
