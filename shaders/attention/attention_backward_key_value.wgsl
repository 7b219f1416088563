// dv[j] = sum p do[t] and dk[j] = scale sum p (do[t]·v[j] - delta[t]) f' q[t] over j <= t <
// j + window and the query heads of the group. One workgroup per ROWS keys of a kv head, one
// invocation per key.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // key, value columns

// What is in the tiles, and rows that invocations hold.
fn x_quad(i: u32) -> vec4<f32> { return unpack(qkv[i]); }
fn y_quad(i: u32) -> vec4<f32> { return unpack(output_gradient[i]); }
fn qkv_quads(at: u32) -> Row {
    var row = Row();
    for (var d = 0u; d < head_quads(); d++) { row[d] = unpack(qkv[at + d]); }
    return row;
}

// Which of four queries from `first` on see the key.
fn seen_by(first: u32, key: u32) -> vec4<bool> {
    let t = first + vec4(0u, 1u, 2u, 3u);
    return sees(t, vec4(key)) & (t < vec4(params.time));
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
    let sequence = z / params.kv_heads;
    let kv_head = z % params.kv_heads;
    let heads = params.heads / params.kv_heads;
    let begin = flat % blocks * ROWS;
    let key = begin + lane;
    // Eight keys go through the same tiles, whoever shares a workgroup with them.
    let first_key = begin + first_of_eight(lane);
    let end = min(latest(first_key + TILE - 1u) + 1u, params.time);
    if sequence < params.batch {
        let k = key_at(sequence, kv_head, min(key, params.time - 1u));
        let v = value_at(sequence, kv_head, min(key, params.time - 1u));
        var k_row = qkv_quads(k);
        var v_row = qkv_quads(v);
        var dk = Row();
        var dv = Row();
        for (var head = kv_head * heads; head < (kv_head + 1u) * heads; head++) {
            let at = statistic_at(sequence, head, 0u);
            let queries = Rows(query_at(sequence, head, 0u), qkv_row(0u, 1u));
            let gradients = Rows(output_at(sequence, head, 0u), params.heads * quads);
            for (var first = first_key; first < end; first += TILE) {
                load_tiles(queries, gradients, first, lane);
                var s = x_dots(&k_row);
                var dp = y_dots(&v_row);
                let query = statistics_of(at, first, lane);
                let by_x = seen_by(first, key);
                let by_y = seen_by(first + 4u, key);
                s = mat2x4(params.scale * s[0], params.scale * s[1]);
                var p = mat2x4(
                    probability(s[0], capped(s[0]), query.top[0], query.log_total[0]),
                    probability(s[1], capped(s[1]), query.top[1], query.log_total[1]),
                );
                p = mat2x4(select(vec4(0.0), p[0], by_x), select(vec4(0.0), p[1], by_y));
                let x = dp[0] - query.delta[0];
                let y = dp[1] - query.delta[1];
                dp[0] = select(vec4(0.0), p[0] * x * capped_derivative(s[0]), by_x);
                dp[1] = select(vec4(0.0), p[1] * y * capped_derivative(s[1]), by_y);
                add_x(&dk, 1.0, dp);
                add_y(&dv, 1.0, p);
                leave_tiles();
            }
        }
        if key < params.time {
            for (var d = 0u; d < quads; d++) {
                qkv_gradient[k + d] = pack(params.scale * dk[d]);
                qkv_gradient[v + d] = pack(dv[d]);
            }
        }
    }
}
