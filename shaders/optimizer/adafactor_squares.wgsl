// Of each chunk: sum u^2 with u = g / sqrt(variance), Adafactor's update before it is bounded. One
// workgroup per chunk; padding adds nothing.
struct AdafactorSquaresParams { chunk_count: u32, decay_power: f32, eps1: f32 }

@group(0) @binding(0) var<uniform> params: AdafactorSquaresParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(3) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(4) var<storage, read> shapes: array<FactoredTensor>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> variance: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> factors: array<f32>;
@group(0) @binding(8) var<storage, read_write> partials: array<f32>;

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
        let shape = shapes[chunk.tensor];
        var sum = vec4<f32>();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            let g = bounded(clipped(gradient[i], step, tensor));
            let u = normalized(i, g, vector_variance(i, g, shape, tensor), shape);
            sum += u * u;
        }
        let total = workgroup_sum(lane, sum4(sum));
        if lane == 0u { partials[c] = total; }
    }
}
