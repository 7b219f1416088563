// The cap on scores, and its derivative: one branch for a block, since some drivers take minutes to
// compile one for each of its columns.
fn capped_block(s: mat4x4<f32>) -> mat4x4<f32> {
    var scores = s;
    if params.soft_cap > 0.0 { scores = mat4x4(cap(s[0]), cap(s[1]), cap(s[2]), cap(s[3])); }
    return scores;
}
fn capped_block_derivative(s: mat4x4<f32>) -> mat4x4<f32> {
    let none = vec4(1.0);
    var factors = mat4x4(none, none, none, none);
    if params.soft_cap > 0.0 {
        factors = mat4x4(
            cap_derivative(s[0]),
            cap_derivative(s[1]),
            cap_derivative(s[2]),
            cap_derivative(s[3]),
        );
    }
    return factors;
}

// Whether all of the 64 queries from `query` on that exist see all of the 64 keys from `key` on.
fn is_seen_whole(query: u32, key: u32) -> bool {
    return key < query && min(query + BLOCK, params.time) - 1u - key < params.window;
}
// Which queries see any of the four keys from `key` on; and which keys any of the four queries up
// to `query` sees.
fn sees_some(query: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    return query - key < vec4(params.window + 3u);
}

fn choose(seen: vec4<bool>, old: mat4x4<f32>, changed: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        select(old[0], changed[0], seen.x),
        select(old[1], changed[1], seen.y),
        select(old[2], changed[2], seen.z),
        select(old[3], changed[3], seen.w),
    );
}
// Of the sums with quad k of the terms, those of the rows that see some of it: times a weight of
// zero, what is not finite would be NaN.
fn choose_rows(upper: vec4<bool>, lower: vec4<bool>, old: Rows, changed: Rows) -> Rows {
    return Rows(choose(upper, old.upper, changed.upper), choose(lower, old.lower, changed.lower));
}
