// What the attention kernels share: parameters, layout, and the transform of raw scores.
struct AttentionParams {
    batch: u32,
    time: u32,
    heads: u32,
    kv_heads: u32,
    head_quads: u32,
    scale: f32,
    soft_cap: f32, // 0: none
    window: u32, // positions that a query sees, itself and those before it; time: all of them
}

const BLOCK = 64u; // rows per workgroup
// Where a running maximum begins: the lowest f32. A score may be as low, so what a query sees is
// decided by position alone. In hexadecimal, since Tint rejects a decimal that must be rounded.
const LOWEST = -0x1.fffffep+127;

fn head_quads() -> u32 { return params.head_quads; }

// qkv is (batch, time, heads + 2 kv_heads, head_quads): queries, then keys, then values.
fn qkv_row(sequence: u32, t: u32) -> u32 {
    return (sequence * params.time + t) * (params.heads + 2u * params.kv_heads) * head_quads();
}
fn query_at(sequence: u32, head: u32, t: u32) -> u32 {
    return qkv_row(sequence, t) + head * head_quads();
}
fn key_at(sequence: u32, kv_head: u32, t: u32) -> u32 {
    return qkv_row(sequence, t) + (params.heads + kv_head) * head_quads();
}
fn value_at(sequence: u32, kv_head: u32, t: u32) -> u32 {
    return qkv_row(sequence, t) + (params.heads + params.kv_heads + kv_head) * head_quads();
}
// The output is (batch, time, heads, head_quads).
fn output_at(sequence: u32, head: u32, t: u32) -> u32 {
    return ((sequence * params.time + t) * params.heads + head) * head_quads();
}
// Row statistics are (batch, heads, time).
fn statistic_at(sequence: u32, head: u32, t: u32) -> u32 {
    return (sequence * params.heads + head) * params.time + t;
}

// Which queries see which keys. Where a key comes after the query, their difference wraps to more
// than any window.
fn sees(query: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    return query - key < vec4(params.window);
}
// Which of four keys from `first` on the query sees.
fn seen(first: u32, query: u32) -> vec4<bool> {
    return sees(vec4(query), first + vec4(0u, 1u, 2u, 3u));
}
// The first key that a query sees.
fn oldest(query: u32) -> u32 { return query - min(query, params.window - 1u); }
// The last query that sees a key, and may lie beyond the last of all.
fn latest(key: u32) -> u32 { return key + params.window - 1u; }

fn cap(score: vec4<f32>) -> vec4<f32> {
    return params.soft_cap * tanh_accurate(score / params.soft_cap);
}
fn cap_derivative(score: vec4<f32>) -> vec4<f32> {
    return tanh_derivative(score / params.soft_cap);
}
fn capped(score: vec4<f32>) -> vec4<f32> {
    if params.soft_cap > 0.0 { return cap(score); }
    return score;
}
fn capped_derivative(score: vec4<f32>) -> vec4<f32> {
    if params.soft_cap > 0.0 { return cap_derivative(score); }
    return vec4(1.0);
}

// Probabilities of scores, before and after the cap, given what the forward pass left of their rows:
// the largest capped score, and log(sum(exp(score - largest))). Apart, because beside a large score
// their sum would lose the digits of the logarithm. NaN where a score or its row is not finite.
fn probability(
    score: vec4<f32>, after_cap: vec4<f32>, top: vec4<f32>, log_total: vec4<f32>,
) -> vec4<f32> {
    let below = max(top - after_cap, vec4(0.0));
    return poisoned(score + log_total, exp_of_minus(below + log_total));
}
