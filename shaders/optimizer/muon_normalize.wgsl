// x *= inverse[t] for the matrices x: each then has a Frobenius norm of at most 1. One workgroup
// per chunk.
struct MuonNormalizeParams { chunk_count: u32 }

@group(0) @binding(0) var<uniform> params: MuonNormalizeParams;
@group(0) @binding(1) var<storage, read> chunks: array<Chunk>;
@group(0) @binding(2) var<storage, read> inverse: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let c = flat_group(group, groups);
    if c < params.chunk_count {
        let chunk = chunks[c];
        let factor = inverse[chunk.tensor];
        for (var k = lane; k < chunk.quads; k += 64u) {
            let i = chunk.offset + k;
            x[i] = (x[i] * factor.x) * factor.y;
        }
    }
}
