// What stands for reduce.wgsl where the 4 invocations of a workgroup are of one subgroup: shuffles in
// the place of workgroup memory and barriers, which compilers of drivers that run shaders on a CPU
// take long for. The order of the sums is the same, and so are their bits.
fn workgroup_sum(lane: u32, value: f32) -> f32 {
    let half = value + subgroupShuffleXor(value, 2u);
    return half + subgroupShuffleXor(half, 1u);
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    let half = max(value, subgroupShuffleXor(value, 2u));
    return max(half, subgroupShuffleXor(half, 1u));
}

fn workgroup_sum_u32(lane: u32, value: u32) -> u32 {
    let half = value + subgroupShuffleXor(value, 2u);
    return half + subgroupShuffleXor(half, 1u);
}

fn workgroup_max_u32(lane: u32, value: u32) -> u32 {
    let half = max(value, subgroupShuffleXor(value, 2u));
    return max(half, subgroupShuffleXor(half, 1u));
}
