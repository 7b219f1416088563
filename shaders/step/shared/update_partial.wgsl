// Joining what the 64 invocations of a workgroup found of an update, first the largest magnitudes,
// then sums in units that those give, and counts. Every invocation must call both, in uniform
// control flow; every one gets the result.
fn join_largest(lane: u32, found: UpdatePartial) -> UpdatePartial {
    var joined = found;
    joined.gradient_max_bits = workgroup_max_u32(lane, found.gradient_max_bits);
    joined.weight_max_bits = workgroup_max_u32(lane, found.weight_max_bits);
    joined.update_max_bits = workgroup_max_u32(lane, found.update_max_bits);
    return joined;
}

fn join_sums(lane: u32, found: UpdatePartial) -> UpdatePartial {
    var joined = found;
    joined.gradient_sum = workgroup_sum(lane, found.gradient_sum);
    joined.weight_sum = workgroup_sum(lane, found.weight_sum);
    joined.update_sum = workgroup_sum(lane, found.update_sum);
    joined.nonfinite_count = workgroup_sum_u32(lane, found.nonfinite_count);
    joined.zero_count = workgroup_sum_u32(lane, found.zero_count);
    joined.frozen_count = workgroup_sum_u32(lane, found.frozen_count);
    joined.cut_count = workgroup_sum_u32(lane, found.cut_count);
    return joined;
}
