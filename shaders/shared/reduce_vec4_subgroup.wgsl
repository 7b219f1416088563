// What stands for reduce_vec4.wgsl where the 4 invocations of a workgroup are of one subgroup.
fn workgroup_sum_vec4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let half = value + subgroupShuffleXor(value, 2u);
    return half + subgroupShuffleXor(half, 1u);
}
