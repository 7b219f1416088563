// y[r, c] = table[tokens[r], c], zero where tokens[r] is outside the vocabulary. One invocation per
// quad.
struct EmbeddingParams { rows: u32, quads: u32, vocabulary: u32 }

@group(0) @binding(0) var<uniform> params: EmbeddingParams;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> table: array<Quad>;
@group(0) @binding(3) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * params.quads {
        let token = tokens[i / params.quads];
        var quad = pack(vec4(0.0));
        if token < params.vocabulary { quad = table[token * params.quads + i % params.quads]; }
        y[i] = quad;
    }
}
