// dx[i] = 2 max(x[i], 0) dy[i]. One invocation per quad.
struct SquaredReluBackwardParams { quads: u32 }

@group(0) @binding(0) var<uniform> params: SquaredReluBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> dy: array<Quad>;
@group(0) @binding(3) var<storage, read_write> x_gradient: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        x_gradient[i] = pack(2.0 * max(unpack(x[i]), vec4(0.0)) * unpack(dy[i]));
    }
}
