// dv[j] = sum p do[t] and dk[j] = scale sum p (do[t]·v[j] - delta[t]) f' q[t] over t >= j and the
// query heads of the group. One workgroup per 64 keys of a kv head, one invocation per key.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read> output_gradient: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> delta: array<f32>; // (batch, heads, time)
@group(0) @binding(5) var<storage, read_write> qkv_gradient: array<Quad>; // key, value columns

fn delta_of(i: vec4<u32>) -> vec4<f32> {
    return vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]);
}

// Where the statistics of four queries are.
fn rows_of(at: u32, first: u32) -> vec4<u32> {
    return at + min(first + vec4(0u, 1u, 2u, 3u), vec4(params.time - 1u));
}

// Which of four queries from `first` on see the key.
fn seen_by(first: u32, key: u32) -> vec4<bool> {
    let t = first + vec4(0u, 1u, 2u, 3u);
    return (t >= vec4(key)) & (t < vec4(params.time));
}

// With what probability four queries that see a key attend to it.
fn probabilities(score: vec4<f32>, at: u32, first: u32) -> vec4<f32> {
    let rows = rows_of(at, first);
    let a = statistics[rows.x];
    let b = statistics[rows.y];
    let c = statistics[rows.z];
    let d = statistics[rows.w];
    return probability(score, vec4(a.x, b.x, c.x, d.x), vec4(a.y, b.y, c.y, d.y));
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
                for (var i = lane; i < TILE * quads; i += BLOCK) {
                    let t = min(first + i / quads, params.time - 1u);
                    let d = i % quads;
                    tile_x[i] = unpack(qkv[query_at(sequence, head, t) + d]);
                    tile_y[i] = unpack(output_gradient[output_at(sequence, head, t) + d]);
                }
                workgroupBarrier();
                if key < first + TILE {
                    var s = mat2x4<f32>();
                    var dp = mat2x4<f32>();
                    for (var d = 0u; d < quads; d++) {
                        s += x_dots(unpack(qkv[k + d]), d);
                        dp += y_dots(unpack(qkv[v + d]), d);
                    }
                    let by_x = seen_by(first, key);
                    let by_y = seen_by(first + 4u, key);
                    s = mat2x4(params.scale * s[0], params.scale * s[1]);
                    let p = mat2x4(
                        select(vec4(0.0), probabilities(s[0], at, first), by_x),
                        select(vec4(0.0), probabilities(s[1], at, first + 4u), by_y),
                    );
                    let x = dp[0] - delta_of(rows_of(at, first));
                    let y = dp[1] - delta_of(rows_of(at, first + 4u));
                    dp[0] = select(vec4(0.0), p[0] * x * capped_derivative(s[0]), by_x);
                    dp[1] = select(vec4(0.0), p[1] * y * capped_derivative(s[1]), by_y);
                    for (var d = 0u; d < quads; d++) {
                        dk[d] += x_sum(dp, d);
                        dv[d] += y_sum(p, d);
                    }
                }
                workgroupBarrier();
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
