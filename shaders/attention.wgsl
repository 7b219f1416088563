// o[t] = sum_j softmax_j(f(scale q[t]·k[j])) v[j] over j <= t, with f the soft cap, by online
// softmax. One workgroup per 64 queries of a head, one invocation per query.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> output: array<Quad>;
@group(0) @binding(3) var<storage, read_write> log_sum_exp: array<f32>; // (batch, heads, time)

fn masked(score: vec4<f32>, first_key: u32, query: u32) -> vec4<f32> {
    return select(vec4(LOWEST), score, first_key + vec4(0u, 1u, 2u, 3u) <= vec4(query));
}

fn largest(x: mat4x4<f32>) -> f32 {
    let m = max(max(x[0], x[1]), max(x[2], x[3]));
    return max(max(m.x, m.y), max(m.z, m.w));
}

// A NaN score stays NaN, so that it cannot pass for a weight of zero.
fn weights(score: vec4<f32>, top: f32) -> vec4<f32> {
    return keep_nan(score, exp_of_minus(top - score));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
    let z = flat / blocks();
    let sequence = z / params.heads;
    let head = z % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let query = flat % blocks() * BLOCK + lane;
    let end = min((flat % blocks() + 1u) * BLOCK, params.time);
    if sequence < params.batch {
        let q = query_at(sequence, head, min(query, params.time - 1u));
        var top = LOWEST;
        var total = 0.0;
        var o = array<vec4<f32>, MAX_HEAD_QUADS>();
        for (var first = 0u; first < end; first += TILE) {
            for (var i = lane; i < TILE * head_quads; i += BLOCK) {
                let key = min(first + i / head_quads, params.time - 1u);
                tile_x[i] = unpack(qkv[key_at(sequence, kv_head, key) + i % head_quads]);
                tile_y[i] = unpack(qkv[value_at(sequence, kv_head, key) + i % head_quads]);
            }
            workgroupBarrier();
            if first <= query {
                var s = mat4x4<f32>();
                for (var d = 0u; d < head_quads; d++) { s += x_dots(unpack(qkv[q + d]), d); }
                s *= params.scale;
                s[0] = masked(capped(s[0]), first, query);
                s[1] = masked(capped(s[1]), first + 4u, query);
                s[2] = masked(capped(s[2]), first + 8u, query);
                s[3] = masked(capped(s[3]), first + 12u, query);
                let new_top = max(top, largest(s));
                let p = mat4x4(
                    weights(s[0], new_top),
                    weights(s[1], new_top),
                    weights(s[2], new_top),
                    weights(s[3], new_top),
                );
                let keep = exp_of_minus(vec4(new_top - top)).x;
                total = total * keep + dot(p[0] + p[1] + p[2] + p[3], vec4(1.0));
                for (var d = 0u; d < head_quads; d++) { o[d] = o[d] * keep + y_sum(p, d); }
                top = new_top;
            }
            workgroupBarrier();
        }
        if query < params.time {
            // The largest score has weight 1, so total is at least 1.
            let at = output_at(sequence, head, query);
            for (var d = 0u; d < head_quads; d++) { output[at + d] = pack(o[d] / total); }
            log_sum_exp[statistic_at(sequence, head, query)] = top + log(total);
        }
    }
}
