// dq[t] = scale sum_j p (do[t]·v[j] - delta[t]) f' k[j] over j <= t, p the probabilities.
// One workgroup per 64 queries of a head, one invocation per query.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // query columns

// Gradients of the raw scores of four keys, given those of their probabilities.
fn score_gradients(
    product: vec4<f32>, dp: vec4<f32>, row: vec2<f32>, row_delta: f32,
) -> vec4<f32> {
    let score = params.scale * product;
    let p = probability(score, vec4(row.x), vec4(row.y));
    return p * (dp - row_delta) * capped_derivative(score);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = head_quads();
    let flat = flat_group(group, groups);
    let z = flat / blocks();
    let sequence = z / params.heads;
    let head = z % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let query = flat % blocks() * BLOCK + lane;
    let end = min((flat % blocks() + 1u) * BLOCK, params.time);
    if sequence < params.batch {
        let t = min(query, params.time - 1u);
        let q = query_at(sequence, head, t);
        let o = output_at(sequence, head, t);
        let row = statistics[statistic_at(sequence, head, t)];
        let row_delta = delta[statistic_at(sequence, head, t)];
        var dq = array<vec4<f32>, MAX_HEAD_QUADS>();
        for (var first = 0u; first < end; first += TILE) {
            for (var i = lane; i < TILE * quads; i += BLOCK) {
                let key = min(first + i / quads, params.time - 1u);
                tile_x[i] = unpack(qkv[key_at(sequence, kv_head, key) + i % quads]);
                tile_y[i] = unpack(qkv[value_at(sequence, kv_head, key) + i % quads]);
            }
            workgroupBarrier();
            if first <= query {
                var s = mat2x4<f32>();
                var dp = mat2x4<f32>();
                for (var d = 0u; d < quads; d++) {
                    s += x_dots(unpack(qkv[q + d]), d);
                    dp += y_dots(unpack(output_gradient[o + d]), d);
                }
                let x = score_gradients(s[0], dp[0], row, row_delta);
                let y = score_gradients(s[1], dp[1], row, row_delta);
                dp[0] = select(vec4(0.0), x, seen(first, query));
                dp[1] = select(vec4(0.0), y, seen(first + 4u, query));
                for (var d = 0u; d < quads; d++) { dq[d] += x_sum(dp, d); }
            }
            workgroupBarrier();
        }
        if query < params.time {
            for (var d = 0u; d < quads; d++) {
                qkv_gradient[q + d] = pack(params.scale * dq[d]);
            }
        }
    }
}
