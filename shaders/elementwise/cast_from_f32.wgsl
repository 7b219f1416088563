// y[i] = x[i], rounded to the storage precision. One invocation per quad.
struct CastFromF32Params { quads: u32 }

@group(0) @binding(0) var<uniform> params: CastFromF32Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads { y[i] = pack(x[i]); }
}
