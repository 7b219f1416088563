// y = a I + b gram + c y for equally many square matrices, where y holds gram^2: the factor of one
// Newton-Schulz iteration. One invocation per quad; padding stays zero.
struct MuonPolynomialParams {
    quads: u32,
    size: u32,
    a: f32,
    b: f32,
    c: f32,
}

@group(0) @binding(0) var<uniform> params: MuonPolynomialParams;
@group(0) @binding(1) var<storage, read> gram: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        let per_row = row_quads(params.size);
        let row = i / per_row % params.size;
        let col = 4u * (i % per_row) + vec4(0u, 1u, 2u, 3u);
        let identity = select(vec4(0.0), vec4(params.a), col == vec4(row));
        y[i] = identity + (params.b * gram[i] + params.c * y[i]);
    }
}
