// sampled[r] = (token, tokens kept, first token whose logit is not finite, its bits): a token drawn
// from the softmax of (logits[r] / temperature) over what top_k, top_p and min_p keep, in this order,
// after the repetition penalty. One workgroup per row.
@group(0) @binding(0) var<uniform> params: SampleParams;
@group(0) @binding(1) var<storage, read> logits: array<Quad>; // (rows, vocabulary)
@group(0) @binding(2) var<storage, read> settings: array<Settings>; // (rows)
@group(0) @binding(3) var<storage, read> seen: array<u32>; // a bit for each token of the text
@group(0) @binding(4) var<storage, read_write> sampled: array<vec4<u32>>; // (rows)

const DOMAIN_SAMPLE = 4u;

var<workgroup> shares: array<f32, LANES>;

// Weights of a quad, zero of what is not kept.
fn kept_weights(row: Row, cut: Cut, quad: u32) -> vec4<f32> {
    let x = scores(row.at, quad);
    let w = weight(x, row.top, settings[row.at].temperature);
    let enough = (w >= vec4(settings[row.at].min_p)) | (x >= vec4(row.top));
    let kept = is_kept(key_of(x), quad, cut) & enough;
    return select(vec4(0.0), w, kept);
}

// Token by token from `first` quad on, until the weights exceed u times all of them.
fn walk(row: Row, cut: Cut, first: u32, end: u32, before: f32) -> u32 {
    var left = before;
    var token = 0u;
    for (var quad = first; quad < end; quad++) {
        let w = kept_weights(row, cut, quad);
        for (var i = 0u; i < 4u; i++) {
            if w[i] > 0.0 {
                token = 4u * quad + i;
                if left < w[i] { return token; }
                left -= w[i];
            }
        }
    }
    return token; // the last one that has a weight: rounding left something
}

// The token, and how many it was drawn among. Each lane adds up neighbouring tokens.
fn draw(row: Row, lane: u32, cut: Cut) -> vec2<u32> {
    let each = (quads() + LANES - 1u) / LANES;
    let first = min(lane * each, quads());
    var sum = 0.0;
    var count = 0u;
    for (var quad = first; quad < min(first + each, quads()); quad++) {
        let w = kept_weights(row, cut, quad);
        sum += (w.x + w.y) + (w.z + w.w);
        count += dot(select(vec4(0u), vec4(1u), w > vec4(0.0)), vec4(1u));
    }
    shares[lane] = sum;
    let kept = workgroup_sum_u32(lane, count);
    if lane != 0u { return vec2(0u, kept); }
    var total = 0.0;
    for (var i = 0u; i < LANES; i++) { total += shares[i]; }
    let s = settings[row.at];
    let words = threefry4x32(vec4(s.index, 0u, 0u, 0u), vec4(s.seed, 0u, 0u, DOMAIN_SAMPLE));
    var left = uniform_unit(words).x * total;
    var chosen = 0u;
    var before = 0.0;
    for (var i = 0u; i < LANES; i++) {
        if shares[i] > 0.0 {
            chosen = i;
            before = left;
            if left < shares[i] { break; }
            left -= shares[i];
        }
    }
    let begin = min(chosen * each, quads());
    return vec2(walk(row, cut, begin, min(begin + each, quads()), before), kept);
}

fn kept_of(row: Row, lane: u32) -> Cut {
    let s = settings[row.at];
    var cut = Cut(0u, ALL);
    if s.top_k > 0u && s.top_k < params.vocabulary { cut = cut_at(row, lane, cut, false, f32(s.top_k)); }
    if s.top_p < 1.0 {
        let all = at_least(row, lane, cut, true, vec4(0u)).x;
        cut = cut_at(row, lane, cut, true, max(s.top_p * all, 1e-30));
    }
    return cut;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = min(flat_group(group, groups), params.rows - 1u);
    let bad = first_bad(at, lane);
    var result = vec4(0u, 0u, bad, 0u);
    if bad == ALL {
        let key = largest_key(at, lane);
        result = vec4(first_of_key(at, lane, key), 1u, bad, 0u);
        if settings[at].temperature > 0.0 {
            let row = Row(at, of_key(key));
            result = vec4(draw(row, lane, kept_of(row, lane)), bad, 0u);
        }
    } else {
        result.w = bitcast<vec4<u32>>(unpack(logits[at * quads() + bad / 4u]))[bad % 4u];
    }
    if lane == 0u && flat_group(group, groups) < params.rows { sampled[at] = result; }
}
