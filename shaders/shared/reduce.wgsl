// Reductions over the LANES invocations of a workgroup, as a tree in fixed order: the same bits on
// every run. Every invocation must call them, in uniform control flow; every one gets the result.
var<workgroup> reduce_f32: array<f32, LANES>;
var<workgroup> reduce_u32: array<u32, LANES>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    reduce_f32[lane] = value;
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { reduce_f32[lane] += reduce_f32[lane + stride]; }
    }
    let total = workgroupUniformLoad(&reduce_f32[0]);
    return total;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    reduce_f32[lane] = value;
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { reduce_f32[lane] = max(reduce_f32[lane], reduce_f32[lane + stride]); }
    }
    let largest = workgroupUniformLoad(&reduce_f32[0]);
    return largest;
}

fn workgroup_sum_u32(lane: u32, value: u32) -> u32 {
    reduce_u32[lane] = value;
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { reduce_u32[lane] += reduce_u32[lane + stride]; }
    }
    let total = workgroupUniformLoad(&reduce_u32[0]);
    return total;
}

fn workgroup_max_u32(lane: u32, value: u32) -> u32 {
    reduce_u32[lane] = value;
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { reduce_u32[lane] = max(reduce_u32[lane], reduce_u32[lane + stride]); }
    }
    let largest = workgroupUniformLoad(&reduce_u32[0]);
    return largest;
}
