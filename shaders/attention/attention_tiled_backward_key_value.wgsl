// dv[j] = sum p do[t] and dk[j] = scale sum p (do[t]·v[j] - delta[t]) f' q[t] over j <= t <
// j + window and the query heads of the group. One workgroup per 64 keys and up to 64 columns
// of a kv head, in tiles of 64 queries.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // key, value columns

// What four queries from `first` on keep of the forward pass.
struct Kept {
    first: u32,
    top: vec4<f32>,
    log_total: vec4<f32>,
    delta: vec4<f32>,
}

fn kept(at: u32, first: u32) -> Kept {
    let i = at + min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u));
    let a = statistics[i.x];
    let b = statistics[i.y];
    let c = statistics[i.z];
    let d = statistics[i.w];
    return Kept(
        first,
        vec4(a.x, b.x, c.x, d.x),
        vec4(a.y, b.y, c.y, d.y),
        vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]),
    );
}

// Which of them see the key.
fn seen_by(query: Kept, key: u32) -> vec4<bool> {
    let t = query.first + vec4(0u, 1u, 2u, 3u);
    return sees(t, vec4(key)) & (t < vec4(params.time));
}

// With what probability they attend to a key, given scores before and after the cap.
fn attends(score: vec4<f32>, after_cap: vec4<f32>, query: Kept, key: u32) -> vec4<f32> {
    let p = probability(score, after_cap, query.top, query.log_total);
    return select(vec4(0.0), p, seen_by(query, key));
}
// To four keys, a column of a matrix each, given q·k.
fn block_attends(products: mat4x4<f32>, query: Kept, key: vec4<u32>) -> mat4x4<f32> {
    let s = params.scale * products;
    let after = capped_block(s);
    return mat4x4(
        attends(s[0], after[0], query, key.x),
        attends(s[1], after[1], query, key.y),
        attends(s[2], after[2], query, key.z),
        attends(s[3], after[3], query, key.w),
    );
}

fn gradients(
    derivative: vec4<f32>, p: vec4<f32>, dp: vec4<f32>, query: Kept, key: u32,
) -> vec4<f32> {
    return select(vec4(0.0), p * (dp - query.delta) * derivative, seen_by(query, key));
}
fn block_gradients(
    products: mat4x4<f32>, p: mat4x4<f32>, dp: mat4x4<f32>, query: Kept, key: vec4<u32>,
) -> mat4x4<f32> {
    let slope = capped_block_derivative(params.scale * products);
    return mat4x4(
        gradients(slope[0], p[0], dp[0], query, key.x),
        gradients(slope[1], p[1], dp[1], query, key.y),
        gradients(slope[2], p[2], dp[2], query, key.z),
        gradients(slope[3], p[3], dp[3], query, key.w),
    );
}

// Dot products of 64 values from s on with 64 output gradients from t on.
fn gradient_dots(lane: u32, a: u32, s: u32, b: u32, t: u32) -> Rows {
    let quads = head_quads();
    var sums = Rows();
    for (var d = 0u; d < quads; d += TERMS) {
        left_of_qkv(lane, a, s, d);
        put_right(lane, gradient_quads(b, t + lane / 8u, 16u, d + lane % 8u));
        workgroupBarrier();
        sums = add_dots(sums, quads - d, lane % 16u, lane / 16u);
        workgroupBarrier();
    }
    return sums;
}

// Adds the terms of 32 queries from t on; with care where some of them do not see all of the keys.
fn add_queries(
    before: Rows, see_all: bool, t: u32, end: u32, key: vec4<u32>, x: u32, y: u32,
) -> Rows {
    var sums = before;
    if see_all {
        sums = add_terms(sums, end - t, x, y);
    } else {
        for (var i = 0u; i < min((end - t + 3u) / 4u, TERMS); i++) {
            let last = vec4(t + 4u * i + 3u);
            sums = choose_rows(sees_some(last, key), sees_some(last, key + 32u),
                sums, add_rows(sums, i, y, right_block(i, x)));
        }
    }
    return sums;
}

fn store(at: u32, key: u32, quad: u32, value: vec4<f32>) {
    if key < params.time && quad < head_quads() {
        qkv_gradient[at + key * qkv_row(0u, 1u) + quad] = pack(value);
    }
}
fn store_rows(at: u32, key: vec4<u32>, quad: u32, factor: f32, rows: mat4x4<f32>) {
    store(at, key.x, quad, factor * rows[0]);
    store(at, key.y, quad, factor * rows[1]);
    store(at, key.z, quad, factor * rows[2]);
    store(at, key.w, quad, factor * rows[3]);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
    let part = flat % parts();
    let begin = flat / parts() % blocks() * BLOCK;
    let z = flat / parts() / blocks();
    let sequence = z / params.kv_heads;
    let kv_head = z % params.kv_heads;
    let heads = params.heads / params.kv_heads;
    let x = lane % 16u;
    let y = lane / 16u;
    if sequence < params.batch {
        let k = key_at(sequence, kv_head, 0u);
        let v = value_at(sequence, kv_head, 0u);
        let key = upper_rows(begin, y);
        let column = COLUMN_QUADS * part;
        let queries_end = min(latest(begin + BLOCK - 1u) + 1u, params.time);
        var dk = Rows();
        var dv = Rows();
        for (var head = kv_head * heads; head < (kv_head + 1u) * heads; head++) {
            let q = query_at(sequence, head, 0u);
            let o = output_at(sequence, head, 0u);
            for (var first = begin; first < queries_end; first += BLOCK) {
                let query = kept(statistic_at(sequence, head, 0u), first + 4u * x);
                let s = qkv_dots(lane, k, begin, q, first);
                let dp = gradient_dots(lane, v, begin, o, first);
                let p = Rows(
                    block_attends(s.upper, query, key),
                    block_attends(s.lower, query, key + 32u),
                );
                let ds = Rows(
                    block_gradients(s.upper, p.upper, dp.upper, query, key),
                    block_gradients(s.lower, p.lower, dp.lower, query, key + 32u),
                );
                let end = min(first + BLOCK, params.time);
                let see_all = is_seen_whole(first, begin);
                for (var t = first; t < end; t += 4u * TERMS) {
                    let is_mine = x / TERMS == (t - first) / (4u * TERMS);
                    if is_mine { put_rows(x, y, p); }
                    let terms = gradient_quads(o, t + lane / 16u, 8u, column + lane % 16u);
                    put_terms(lane, terms);
                    workgroupBarrier();
                    dv = add_queries(dv, see_all, t, end, key, x, y);
                    workgroupBarrier();
                    if is_mine { put_rows(x, y, ds); }
                    terms_of_qkv(lane, q, t, column);
                    workgroupBarrier();
                    dk = add_queries(dk, see_all, t, end, key, x, y);
                    workgroupBarrier();
                }
            }
        }
        store_rows(k, key, column + x, params.scale, dk.upper);
        store_rows(k, key + 32u, column + x, params.scale, dk.lower);
        store_rows(v, key, column + x, 1.0, dv.upper);
        store_rows(v, key + 32u, column + x, 1.0, dv.lower);
    }
}
