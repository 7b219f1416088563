// Of each chunk: how many elements have sqrt(v/c2) >= eps. One workgroup per chunk; padding, where
// v is zero, counts as below.
struct MomentStatisticsParams { chunk_count: u32, eps: f32 }

@group(0) @binding(0) var<uniform> params: MomentStatisticsParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read> tensors: array<TensorState>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;

const SMALLEST_NORMAL = 1.17549435e-38;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        let unbias2 = 1.0 / max(tensors[chunk.tensor].bias_correction2, SMALLEST_NORMAL);
        var count = vec4<f32>();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let vi = v[chunk.kept + k];
            let root = sqrt(max(vi * unbias2, vec4(SMALLEST_NORMAL)));
            let reaches = (root >= vec4(params.eps)) & (vi > vec4(0.0));
            count += select(vec4(0.0), vec4(1.0), reaches);
        }
        let total = workgroup_sum(lane, sum4(count));
        if lane == 0u { partials[c] = total; }
    }
}
