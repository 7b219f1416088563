// What stands for attention_statistics.wgsl where a workgroup is one subgroup of 8: each invocation
// loads what one query keeps.
struct Kept {
    top: mat2x4<f32>,
    log_total: mat2x4<f32>,
    delta: mat2x4<f32>,
}

fn of_all(x: f32) -> mat2x4<f32> {
    return mat2x4(
        subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u),
        subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u),
        subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u),
    );
}

fn statistics_of(at: u32, first: u32, lane: u32) -> Kept {
    let row = at + min(first + lane, params.time - 1u);
    let own = statistics[row];
    return Kept(of_all(own.x), of_all(own.y), of_all(delta[row]));
}
