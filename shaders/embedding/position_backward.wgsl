// gradient[t, c] = sum over b of dy[b time + t, c], in order of b. One invocation per quad of the
// gradient; accumulate 1 adds to what is there.
struct PositionBackwardParams { batch: u32, time_quads: u32, accumulate: u32 }

@group(0) @binding(0) var<uniform> params: PositionBackwardParams;
@group(0) @binding(1) var<storage, read> dy: array<Quad>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.time_quads {
        var total = vec4(0.0);
        for (var b = 0u; b < params.batch; b++) { total += unpack(dy[b * params.time_quads + i]); }
        if params.accumulate != 0u { total += gradient[i]; }
        gradient[i] = total;
    }
}
