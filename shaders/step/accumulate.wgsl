// y[i] = factor * x[i], or y[i] += factor * x[i]. One invocation per quad.
struct AccumulateParams { quads: u32, factor: f32, accumulate: u32 }

@group(0) @binding(0) var<uniform> params: AccumulateParams;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        var sum = params.factor * x[i];
        if params.accumulate != 0u { sum += y[i]; }
        y[i] = sum;
    }
}
