// dq[t] = scale sum_j p (do[t]·v[j] - delta[t]) f' k[j] over t - window < j <= t, with p the
// probabilities.
// One workgroup per ROWS queries of a head, one invocation per query.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // query columns

// What is in the tiles, and rows that invocations hold.
fn x_quad(i: u32) -> vec4<f32> { return unpack(qkv[i]); }
fn y_quad(i: u32) -> vec4<f32> { return unpack(qkv[i]); }
fn qkv_quads(at: u32) -> Row {
    var row = Row();
    for (var d = 0u; d < head_quads(); d++) { row[d] = unpack(qkv[at + d]); }
    return row;
}
fn gradient_quads(at: u32) -> Row {
    var row = Row();
    for (var d = 0u; d < head_quads(); d++) { row[d] = unpack(output_gradient[at + d]); }
    return row;
}

// Gradients of the raw scores of four keys, given those of their probabilities.
fn score_gradients(
    product: vec4<f32>, dp: vec4<f32>, row: vec2<f32>, row_delta: f32,
) -> vec4<f32> {
    let score = params.scale * product;
    let p = probability(score, capped(score), vec4(row.x), vec4(row.y));
    return p * (dp - row_delta) * capped_derivative(score);
}

@compute @workgroup_size(ROWS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = head_quads();
    let flat = flat_group(group, groups);
    let blocks = (params.time + ROWS - 1u) / ROWS;
    let z = flat / blocks;
    let sequence = z / params.heads;
    let head = z % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let begin = flat % blocks * ROWS;
    let query = begin + lane;
    // Eight queries go through the same tiles, whoever shares a workgroup with them.
    let first_query = begin + first_of_eight(lane);
    let end = min(first_query + TILE, params.time);
    if sequence < params.batch {
        let t = min(query, params.time - 1u);
        let q = query_at(sequence, head, t);
        let o = output_at(sequence, head, t);
        let row = statistics[statistic_at(sequence, head, t)];
        let row_delta = delta[statistic_at(sequence, head, t)];
        let pitch = qkv_row(0u, 1u);
        let keys = Rows(key_at(sequence, kv_head, 0u), pitch);
        let values = Rows(value_at(sequence, kv_head, 0u), pitch);
        var q_row = qkv_quads(q);
        var o_row = gradient_quads(o);
        var dq = Row();
        for (var first = oldest(first_query) / TILE * TILE; first < end; first += TILE) {
            load_tiles(keys, values, first, lane);
            let s = x_dots(&q_row);
            var dp = y_dots(&o_row);
            let x = score_gradients(s[0], dp[0], row, row_delta);
            let y = score_gradients(s[1], dp[1], row, row_delta);
            dp[0] = select(vec4(0.0), x, seen(first, query));
            dp[1] = select(vec4(0.0), y, seen(first + 4u, query));
            add_x(&dq, 1.0, dp);
            leave_tiles();
        }
        if query < params.time {
            for (var d = 0u; d < quads; d++) {
                qkv_gradient[q + d] = pack(params.scale * dq[d]);
            }
        }
    }
}
