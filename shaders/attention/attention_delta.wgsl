// delta[b, h, t] = sum_d output_gradient · output. One invocation per row of a head.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> output: array<Quad>; // (batch, time, heads, head_quads)
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>; // (batch, heads, time)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = head_quads();
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.batch * params.time * params.heads {
        let row = i / params.heads;
        var sum = 0.0;
        for (var d = 0u; d < quads; d++) {
            let at = i * quads + d;
            sum += dot(unpack(output[at]), unpack(output_gradient[at]));
        }
        delta[statistic_at(row / params.time, i % params.heads, row % params.time)] = sum;
    }
}
