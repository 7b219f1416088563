// Four sums at once over the LANES invocations of a workgroup, in the fixed order of reduce.wgsl.
// Every invocation must call it, in uniform control flow; every one gets the result.
var<workgroup> reduce_vec4_f32: array<vec4<f32>, LANES>;

fn workgroup_sum_vec4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    reduce_vec4_f32[lane] = value;
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { reduce_vec4_f32[lane] += reduce_vec4_f32[lane + stride]; }
    }
    let total = workgroupUniformLoad(&reduce_vec4_f32[0]);
    return total;
}
