// p[r, j] = softmax over j <= r mod time of f(scale x[r, j]), f the soft cap; 0 elsewhere.
// One workgroup per row.
struct CausalSoftmaxParams {
    rows: u32,
    time: u32,
    scale: f32,
    soft_cap: f32, // 0: none
}

@group(0) @binding(0) var<uniform> params: CausalSoftmaxParams;
@group(0) @binding(1) var<storage, read> scores: array<Quad>; // (rows, time)
@group(0) @binding(2) var<storage, read_write> probabilities: array<Quad>; // (rows, time)

// The lowest f32: a score may be as low, so what a query sees is decided by position alone.
const LOWEST = -0x1.fffffep+127;

fn seen(quad: u32, query: u32) -> vec4<bool> {
    return 4u * quad + vec4(0u, 1u, 2u, 3u) <= vec4(query);
}

fn raw_scores(i: u32) -> vec4<f32> { return params.scale * unpack(scores[i]); }

fn capped(score: vec4<f32>) -> vec4<f32> {
    if params.soft_cap > 0.0 { return params.soft_cap * tanh_accurate(score / params.soft_cap); }
    return score;
}

// exp(score - largest) of what the query sees; NaN of a score that is not finite.
fn weights(at: u32, quad: u32, query: u32, largest: f32) -> vec4<f32> {
    let score = raw_scores(at + quad);
    let weight = poisoned(score, exp_of_minus(largest - capped(score)));
    return select(vec4(0.0), weight, seen(quad, query));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let quads = (params.time + 3u) / 4u;
        let at = row * quads;
        let query = row % params.time;
        var top = vec4(LOWEST);
        for (var i = lane; i <= query / 4u; i += LANES) {
            top = max(top, select(vec4(LOWEST), capped(raw_scores(at + i)), seen(i, query)));
        }
        let largest = workgroup_max(lane, max(max(top.x, top.y), max(top.z, top.w)));
        var sum = vec4(0.0);
        for (var i = lane; i <= query / 4u; i += LANES) { sum += weights(at, i, query, largest); }
        let total = workgroup_sum(lane, dot(sum, vec4(1.0)));
        for (var i = lane; i < quads; i += LANES) {
            let p = weights(at, i, query, largest) / total;
            probabilities[at + i] = pack(select(vec4(0.0), p, seen(i, query)));
        }
    }
}
