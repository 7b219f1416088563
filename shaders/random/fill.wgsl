// w[r, c] = value, padding 0. One invocation per quad.
struct FillParams { rows: u32, cols: u32, value: f32 }

@group(0) @binding(0) var<uniform> params: FillParams;
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let quads = (params.cols + 3u) / 4u;
    if i < params.rows * quads {
        w[i] = mask_padding(vec4(params.value), i % quads, params.cols);
    }
}
