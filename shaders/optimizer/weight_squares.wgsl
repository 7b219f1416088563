// Of each chunk: sum w^2, where a weight counts at most 1e14. One workgroup per chunk.
struct WeightSquaresParams { chunk_count: u32 }

@group(0) @binding(0) var<uniform> params: WeightSquaresParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;

// Squares of larger weights would not add up in f32.
const LARGEST = 1e14;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        var sum = vec4<f32>();
        for (var k = lane; k < chunk.quads; k += 64u) {
            let w = clamp(load_weight(chunk.offset + k), vec4(-LARGEST), vec4(LARGEST));
            sum += w * w;
        }
        let total = workgroup_sum(lane, sum4(sum));
        if lane == 0u { partials[c] = total; }
    }
}
