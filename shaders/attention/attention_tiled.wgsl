// o[t] = sum_j softmax_j(f(scale q[t]·k[j])) v[j] over t - window < j <= t, with f the soft cap, by
// online softmax. One workgroup per 64 queries and up to 64 columns of a head, in tiles of 64 keys.
// With `watch` row_logits[t] = (largest scale q[t]·k[j], entropy of the softmax); NaN where a score
// is not finite.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> output: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read_write> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> row_logits: array<vec2<f32>>; // (batch, heads, time)

override watch: u32 = 0u; // a constant, so that what it switches off costs nothing

// exp(-FAINT) counts as zero; a difference of two scores beyond it may be Inf.
const FAINT = vec4(88.0);

// What an invocation knows of four rows. Sums and `largest` are those over its own keys.
struct Softmax {
    top: vec4<f32>,
    total: vec4<f32>, // sum of exp(s - top)
    largest: vec4<f32>,
    spread: vec4<f32>, // sum of exp(s - top) (top - s): every term is at least 0, none cancels
}

// What four rows see of four keys from `key` on: a column of a matrix is a key.
fn masked(s: mat4x4<f32>, key: u32, query: vec4<u32>) -> mat4x4<f32> {
    return mat4x4(
        select(vec4(LOWEST), s[0], sees(query, vec4(key))),
        select(vec4(LOWEST), s[1], sees(query, vec4(key + 1u))),
        select(vec4(LOWEST), s[2], sees(query, vec4(key + 2u))),
        select(vec4(LOWEST), s[3], sees(query, vec4(key + 3u))),
    );
}
fn highest(s: mat4x4<f32>) -> vec4<f32> { return max(max(s[0], s[1]), max(s[2], s[3])); }

// How many invocations share a row: 16, but compilers that know it write loops out.
fn row_lanes() -> u32 { return min(16u, 16u * params.time); }

// The largest of what the invocations of a row put at [y][0], for upper rows, and [y][1].
fn row_max(y: u32) -> mat2x4<f32> {
    var top = mat2x4(vec4(LOWEST), vec4(LOWEST));
    for (var i = 0u; i < row_lanes(); i += 2u) {
        let upper = max(right[y][0][i], right[y][0][i + 1u]);
        let lower = max(right[y][1][i], right[y][1][i + 1u]);
        top = mat2x4(max(top[0], upper), max(top[1], lower));
    }
    return top;
}
// The sum of what they put at [y][j].
fn row_sum(y: u32) -> mat4x4<f32> {
    var sums = mat4x4<f32>();
    for (var i = 0u; i < row_lanes(); i++) {
        sums += mat4x4(right[y][0][i], right[y][1][i], right[y][2][i], right[y][3][i]);
    }
    return sums;
}

// exp(s - top) of four keys; of a score that is not finite NaN, not zero. `x` is the score before
// the cap.
fn weights(
    x: mat4x4<f32>, below: mat4x4<f32>, key: u32, query: vec4<u32>,
) -> mat4x4<f32> {
    let none = vec4(0.0);
    return mat4x4(
        select(none, poisoned(x[0], exp_of_minus(below[0])), sees(query, vec4(key))),
        select(none, poisoned(x[1], exp_of_minus(below[1])), sees(query, vec4(key + 1u))),
        select(none, poisoned(x[2], exp_of_minus(below[2])), sees(query, vec4(key + 2u))),
        select(none, poisoned(x[3], exp_of_minus(below[3])), sees(query, vec4(key + 3u))),
    );
}
fn distances(top: vec4<f32>, s: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        min(top - s[0], FAINT),
        min(top - s[1], FAINT),
        min(top - s[2], FAINT),
        min(top - s[3], FAINT),
    );
}

// Goes on to the largest scores of a further tile, whose weights lie so far below them.
fn advance(
    before: Softmax, top: vec4<f32>, x: mat4x4<f32>, p: mat4x4<f32>, below: mat4x4<f32>,
) -> Softmax {
    var row = before;
    let rise = min(top - row.top, FAINT);
    let keep = exp_of_minus(rise);
    if watch != 0u {
        row.largest = max(row.largest, highest(x));
        row.spread = keep * (row.spread + rise * row.total)
            + ((p[0] * below[0] + p[1] * below[1]) + (p[2] * below[2] + p[3] * below[3]));
    }
    row.total = row.total * keep + ((p[0] + p[1]) + (p[2] + p[3]));
    row.top = top;
    return row;
}
fn scaled(o: mat4x4<f32>, rows: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(o[0] * rows.x, o[1] * rows.y, o[2] * rows.z, o[3] * rows.w);
}

fn store_output(at: u32, query: u32, quad: u32, value: vec4<f32>) {
    if query < params.time && quad < head_quads() {
        output[at + query * params.heads * head_quads() + quad] = pack(value);
    }
}
// Quads of four rows. The largest score has weight 1, so a total is at least 1.
fn store_outputs(at: u32, query: vec4<u32>, quad: u32, o: mat4x4<f32>, total: vec4<f32>) {
    store_output(at, query.x, quad, o[0] / total.x);
    store_output(at, query.y, quad, o[1] / total.y);
    store_output(at, query.z, quad, o[2] / total.z);
    store_output(at, query.w, quad, o[3] / total.w);
}

fn store_row(at: u32, query: u32, top: f32, log_total: f32, score: f32, entropy: f32) {
    if query < params.time {
        statistics[at + query] = vec2(top, log_total);
        if watch != 0u { row_logits[at + query] = vec2(score, entropy); }
    }
}
fn store_rows(
    at: u32, query: vec4<u32>, row: Softmax, total: vec4<f32>, spread: vec4<f32>, largest: vec4<f32>,
) {
    // Some drivers give a number for the logarithm of NaN.
    let log_total = poisoned(total, log(total));
    let entropy = log(total) + spread / total;
    let score = keep_nan(entropy, largest);
    store_row(at, query.x, row.top.x, log_total.x, score.x, entropy.x);
    store_row(at, query.y, row.top.y, log_total.y, score.y, entropy.y);
    store_row(at, query.z, row.top.z, log_total.z, score.z, entropy.z);
    store_row(at, query.w, row.top.w, log_total.w, score.w, entropy.w);
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
        let upper_query = upper_rows(begin, y);
        let lower_query = upper_query + 32u;
        var upper = Softmax(vec4(LOWEST), vec4(0.0), vec4(LOWEST), vec4(0.0));
        var lower = upper;
        var o = Rows();
        for (var first = oldest(begin) / BLOCK * BLOCK; first <= begin; first += BLOCK) {
            let key = first + 4u * x;
            let s = qkv_dots(lane, q, begin, k, first);
            let x_upper = masked(params.scale * transpose(s.upper), key, upper_query);
            let x_lower = masked(params.scale * transpose(s.lower), key, lower_query);
            let s_upper = masked(capped_block(x_upper), key, upper_query);
            let s_lower = masked(capped_block(x_lower), key, lower_query);
            right[y][0][x] = highest(s_upper);
            right[y][1][x] = highest(s_lower);
            workgroupBarrier();
            let highest_seen = row_max(y);
            let upper_top = max(upper.top, highest_seen[0]);
            let lower_top = max(lower.top, highest_seen[1]);
            o.upper = scaled(o.upper, exp_of_minus(min(upper_top - upper.top, FAINT)));
            o.lower = scaled(o.lower, exp_of_minus(min(lower_top - lower.top, FAINT)));
            let upper_below = distances(upper_top, s_upper);
            let lower_below = distances(lower_top, s_lower);
            let p_upper = weights(x_upper, upper_below, key, upper_query);
            let p_lower = weights(x_lower, lower_below, key, lower_query);
            upper = advance(upper, upper_top, x_upper, p_upper, upper_below);
            lower = advance(lower, lower_top, x_lower, p_lower, lower_below);
            let p = Rows(transpose(p_upper), transpose(p_lower));
            workgroupBarrier();
            let end = min(first + BLOCK, params.time);
            for (var t = first; t < end; t += 4u * TERMS) {
                if x / TERMS == (t - first) / (4u * TERMS) { put_rows(x, y, p); }
                terms_of_qkv(lane, v, t, COLUMN_QUADS * part);
                workgroupBarrier();
                if is_seen_whole(begin, first) {
                    o = add_terms(o, end - t, x, y);
                } else {
                    for (var i = 0u; i < min((end - t + 3u) / 4u, TERMS); i++) {
                        let quad = vec4(t + 4u * i);
                        let upper_sees = sees_some(upper_query, quad);
                        let lower_sees = sees_some(lower_query, quad);
                        let added = add_rows(o, i, y, right_block(i, x));
                        o = choose_rows(upper_sees, lower_sees, o, added);
                    }
                }
                workgroupBarrier();
            }
        }
        right[y][0][x] = upper.total;
        right[y][1][x] = lower.total;
        right[y][2][x] = upper.spread;
        right[y][3][x] = lower.spread;
        workgroupBarrier();
        let sums = row_sum(y); // totals, then spreads
        workgroupBarrier();
        right[y][0][x] = upper.largest;
        right[y][1][x] = lower.largest;
        workgroupBarrier();
        let at = output_at(sequence, head, 0u);
        let quad = COLUMN_QUADS * part + x;
        store_outputs(at, upper_query, quad, o.upper, sums[0]);
        store_outputs(at, lower_query, quad, o.lower, sums[1]);
        if part == 0u && x == 0u {
            let row = statistic_at(sequence, head, 0u);
            let largest = row_max(y);
            store_rows(row, upper_query, upper, sums[0], sums[2], largest[0]);
            store_rows(row, lower_query, lower, sums[1], sums[3], largest[1]);
        }
    }
}
