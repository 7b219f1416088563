// dv[j] = sum p do[t] and dk[j] = scale sum p (do[t]·v[j] - delta[t]) f' q[t] over t >= j and the
// query heads of the group. One workgroup per 64 keys of a kv head, one invocation per key.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>; // (batch, heads, time)
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // key, value columns

// Four queries from `query` on, whose statistics start at `at`.
fn probability(raw: vec4<f32>, at: u32, query: u32, key: u32) -> vec4<f32> {
    let t = query + vec4(0u, 1u, 2u, 3u);
    let i = at + min(t, vec4(params.time - 1u));
    let lse = vec4(log_sum_exp[i.x], log_sum_exp[i.y], log_sum_exp[i.z], log_sum_exp[i.w]);
    let seen = (t >= vec4(key)) & (t < vec4(params.time));
    return select(vec4(0.0), exp_of_minus(lse - capped(raw)), seen);
}
fn score_gradient(raw: vec4<f32>, p: vec4<f32>, dp: vec4<f32>, at: u32, query: u32) -> vec4<f32> {
    let i = at + min(query + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u));
    let row_delta = vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]);
    return p * (dp - row_delta) * capped_derivative(raw);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
    let z = flat / blocks();
    let sequence = z / params.kv_heads;
    let kv_head = z % params.kv_heads;
    let heads = params.heads / params.kv_heads;
    let begin = flat % blocks() * BLOCK;
    let key = begin + lane;
    if sequence < params.batch {
        let k = key_at(sequence, kv_head, min(key, params.time - 1u));
        let v = value_at(sequence, kv_head, min(key, params.time - 1u));
        var dk = array<vec4<f32>, MAX_HEAD_QUADS>();
        var dv = array<vec4<f32>, MAX_HEAD_QUADS>();
        for (var head = kv_head * heads; head < (kv_head + 1u) * heads; head++) {
            let at = statistic_at(sequence, head, 0u);
            for (var first = begin; first < params.time; first += TILE) {
                for (var i = lane; i < TILE * head_quads; i += BLOCK) {
                    let t = min(first + i / head_quads, params.time - 1u);
                    let d = i % head_quads;
                    tile_x[i] = unpack(qkv[query_at(sequence, head, t) + d]);
                    tile_y[i] = unpack(output_gradient[output_at(sequence, head, t) + d]);
                }
                workgroupBarrier();
                if key < first + TILE {
                    var s = mat4x4<f32>();
                    var dp = mat4x4<f32>();
                    for (var d = 0u; d < head_quads; d++) {
                        s += x_dots(unpack(qkv[k + d]), d);
                        dp += y_dots(unpack(qkv[v + d]), d);
                    }
                    s *= params.scale;
                    let p = mat4x4(
                        probability(s[0], at, first, key),
                        probability(s[1], at, first + 4u, key),
                        probability(s[2], at, first + 8u, key),
                        probability(s[3], at, first + 12u, key),
                    );
                    let ds = mat4x4(
                        score_gradient(s[0], p[0], dp[0], at, first),
                        score_gradient(s[1], p[1], dp[1], at, first + 4u),
                        score_gradient(s[2], p[2], dp[2], at, first + 8u),
                        score_gradient(s[3], p[3], dp[3], at, first + 12u),
                    );
                    for (var d = 0u; d < head_quads; d++) {
                        dk[d] += x_sum(ds, d);
                        dv[d] += y_sum(p, d);
                    }
                }
                workgroupBarrier();
            }
        }
        if key < params.time {
            for (var d = 0u; d < head_quads; d++) {
                qkv_gradient[k + d] = pack(params.scale * dk[d]);
                qkv_gradient[v + d] = pack(dv[d]);
            }
        }
    }
}
