// What eight queries keep of the forward pass, four to a column.
struct Kept {
    top: mat2x4<f32>,
    log_total: mat2x4<f32>,
    delta: mat2x4<f32>,
}

// Queries from `first` on; what is beyond the last repeats it.
fn statistics_of(at: u32, first: u32, lane: u32) -> Kept {
    let i = at + min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u));
    let j = at + min(first + vec4(4u, 5u, 6u, 7u), vec4(params.time - 1u));
    let upper = mat4x2(statistics[i.x], statistics[i.y], statistics[i.z], statistics[i.w]);
    let lower = mat4x2(statistics[j.x], statistics[j.y], statistics[j.z], statistics[j.w]);
    let by_upper = transpose(upper);
    let by_lower = transpose(lower);
    return Kept(
        mat2x4(by_upper[0], by_lower[0]),
        mat2x4(by_upper[1], by_lower[1]),
        mat2x4(
            vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]),
            vec4(delta[j.x], delta[j.y], delta[j.z], delta[j.w]),
        ),
    );
}
