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

const LOWEST = -1e30; // below every score, yet finite: its weight is zero

fn score(at: u32, quad: u32, query: u32) -> vec4<f32> {
    var s = params.scale * unpack(scores[at + quad]);
    if params.soft_cap > 0.0 { s = params.soft_cap * tanh_accurate(s / params.soft_cap); }
    return select(vec4(LOWEST), s, 4u * quad + vec4(0u, 1u, 2u, 3u) <= vec4(query));
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
        for (var i = lane; i <= query / 4u; i += LANES) { top = max(top, score(at, i, query)); }
        let largest = workgroup_max(lane, max(max(top.x, top.y), max(top.z, top.w)));
        var sum = vec4(0.0);
        for (var i = lane; i <= query / 4u; i += LANES) {
            let s = score(at, i, query);
            sum += keep_nan(s, exp_of_minus(largest - s));
        }
        let total = workgroup_sum(lane, dot(sum, vec4(1.0)));
        for (var i = lane; i < quads; i += LANES) {
            let s = score(at, i, query);
            probabilities[at + i] = pack(keep_nan(s, exp_of_minus(largest - s)) / total);
        }
    }
}
