// weight[first + i] = x[i], in the optimizer's storage: initial values. One invocation per quad.
struct StoreWeightsParams { first: u32, quads: u32 }

@group(0) @binding(0) var<uniform> params: StoreWeightsParams;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> weight: array<Weight>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads { set_weight(params.first + i, x[i]); }
}
