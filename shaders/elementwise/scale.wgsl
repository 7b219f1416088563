// y[i] = factor x[i]. Zero gives +0 whatever the factor's sign, so
// that padding keeps its bits. One invocation per quad.
struct ScaleParams { quads: u32, factor: f32 }

@group(0) @binding(0) var<uniform> params: ScaleParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        let values = unpack(x[i]);
        y[i] = pack(select(params.factor * values, vec4(0.0), values == vec4(0.0)));
    }
}
