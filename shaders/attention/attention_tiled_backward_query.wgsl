// dq[t] = scale sum_j p (do[t]·v[j] - delta[t]) f' k[j] over t - window < j <= t, with p the
// probabilities.
// One workgroup per 64 queries and up to 64 columns of a head, in tiles of 64 keys.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // query columns

// What four rows keep of the forward pass.
struct Kept {
    top: vec4<f32>,
    log_total: vec4<f32>,
    delta: vec4<f32>,
}

fn kept(at: u32, query: vec4<u32>) -> Kept {
    let i = at + min(query, vec4(params.time - 1u));
    let a = statistics[i.x];
    let b = statistics[i.y];
    let c = statistics[i.z];
    let d = statistics[i.w];
    return Kept(
        vec4(a.x, b.x, c.x, d.x),
        vec4(a.y, b.y, c.y, d.y),
        vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]),
    );
}

// Of the rows' scores of one key: before the cap, after it, and its derivative there; do·v.
fn gradients(
    score: vec4<f32>, after_cap: vec4<f32>, derivative: vec4<f32>, dp: vec4<f32>, row: Kept,
    seen: vec4<bool>,
) -> vec4<f32> {
    let p = probability(score, after_cap, row.top, row.log_total);
    return select(vec4(0.0), p * (dp - row.delta) * derivative, seen);
}
// Of four keys from `key` on; a column of a matrix is a row of scores.
fn block_gradients(
    products: mat4x4<f32>, gradient: mat4x4<f32>, row: Kept, key: u32, query: vec4<u32>,
) -> mat4x4<f32> {
    let s = params.scale * transpose(products);
    let after = capped_block(s);
    let slope = capped_block_derivative(s);
    let dp = transpose(gradient);
    return transpose(mat4x4(
        gradients(s[0], after[0], slope[0], dp[0], row, sees(query, vec4(key))),
        gradients(s[1], after[1], slope[1], dp[1], row, sees(query, vec4(key + 1u))),
        gradients(s[2], after[2], slope[2], dp[2], row, sees(query, vec4(key + 2u))),
        gradients(s[3], after[3], slope[3], dp[3], row, sees(query, vec4(key + 3u))),
    ));
}

// Dot products of 64 output gradients from s on with 64 values from t on.
fn gradient_dots(lane: u32, a: u32, s: u32, b: u32, t: u32) -> Rows {
    let quads = head_quads();
    var sums = Rows();
    for (var d = 0u; d < quads; d += TERMS) {
        put_left(lane, gradient_quads(a, s + lane / 8u, 16u, d + lane % 8u));
        right_of_qkv(lane, b, t, d);
        workgroupBarrier();
        sums = add_dots(sums, quads - d, lane % 16u, lane / 16u);
        workgroupBarrier();
    }
    return sums;
}

fn store(at: u32, query: u32, quad: u32, value: vec4<f32>) {
    if query < params.time && quad < head_quads() {
        qkv_gradient[at + query * qkv_row(0u, 1u) + quad] = pack(params.scale * value);
    }
}
fn store_rows(at: u32, query: vec4<u32>, quad: u32, dq: mat4x4<f32>) {
    store(at, query.x, quad, dq[0]);
    store(at, query.y, quad, dq[1]);
    store(at, query.z, quad, dq[2]);
    store(at, query.w, quad, dq[3]);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
    let part = flat % parts();
    // The last queries see most: they begin.
    let begin = (blocks() - 1u - flat / parts() % blocks()) * BLOCK;
    let z = flat / parts() / blocks();
    let sequence = z / params.heads;
    let head = z % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let x = lane % 16u;
    let y = lane / 16u;
    if sequence < params.batch {
        let q = query_at(sequence, head, 0u);
        let k = key_at(sequence, kv_head, 0u);
        let v = value_at(sequence, kv_head, 0u);
        let o = output_at(sequence, head, 0u);
        let upper_query = upper_rows(begin, y);
        let lower_query = upper_query + 32u;
        let upper = kept(statistic_at(sequence, head, 0u), upper_query);
        let lower = kept(statistic_at(sequence, head, 0u), lower_query);
        var dq = Rows();
        for (var first = oldest(begin) / BLOCK * BLOCK; first <= begin; first += BLOCK) {
            let key = first + 4u * x;
            let s = qkv_dots(lane, q, begin, k, first);
            let dp = gradient_dots(lane, o, begin, v, first);
            let ds = Rows(
                block_gradients(s.upper, dp.upper, upper, key, upper_query),
                block_gradients(s.lower, dp.lower, lower, key, lower_query),
            );
            let end = min(first + BLOCK, params.time);
            for (var t = first; t < end; t += 4u * TERMS) {
                if x / TERMS == (t - first) / (4u * TERMS) { put_rows(x, y, ds); }
                terms_of_qkv(lane, k, t, COLUMN_QUADS * part);
                workgroupBarrier();
                if is_seen_whole(begin, first) {
                    dq = add_terms(dq, end - t, x, y);
                } else {
                    for (var i = 0u; i < min((end - t + 3u) / 4u, TERMS); i++) {
                        let quad = vec4(t + 4u * i);
                        let upper_sees = sees_some(upper_query, quad);
                        let lower_sees = sees_some(lower_query, quad);
                        let added = add_rows(dq, i, y, right_block(i, x));
                        dq = choose_rows(upper_sees, lower_sees, dq, added);
                    }
                }
                workgroupBarrier();
            }
        }
        store_rows(q, upper_query, COLUMN_QUADS * part + x, dq.upper);
        store_rows(q, lower_query, COLUMN_QUADS * part + x, dq.lower);
    }
}
