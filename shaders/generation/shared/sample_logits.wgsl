// Logits that tokens are drawn from: settings, penalty, order, weights.
struct SampleParams { rows: u32, vocabulary: u32 }

struct Settings {
    temperature: f32,
    top_k: u32, // 0: all
    top_p: f32,
    min_p: f32,
    penalty: f32,
    seed: u32,
    index: u32,
    unused: u32,
}

const ALL = 0xffffffffu;
const FAINT = 88.0; // exp(-FAINT) counts as zero

fn quads() -> u32 { return (params.vocabulary + 3u) / 4u; }
fn ids(quad: u32) -> vec4<u32> { return 4u * quad + vec4(0u, 1u, 2u, 3u); }

// Four logits, after the repetition penalty.
fn scores(row: u32, quad: u32) -> vec4<f32> {
    let x = unpack(logits[row * quads() + quad]);
    let word = seen[row * ((params.vocabulary + 31u) / 32u) + quad / 8u];
    let is_seen = ((vec4(word) >> (ids(quad) % 32u)) & vec4(1u)) == vec4(1u);
    let penalty = settings[row].penalty;
    return select(x, select(x * penalty, x / penalty, x > vec4(0.0)), is_seen);
}

// In the order of the numbers; the two zeros are equal.
fn key_of(x: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(x);
    let sign = vec4(0x80000000u);
    let keys = select(bits | sign, ~bits, bits >= sign);
    return select(keys, sign, (bits << vec4(1u)) == vec4(0u));
}
fn of_key(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key ^ 0x80000000u, key >= 0x80000000u));
}

// exp((x - top) / temperature).
fn weight(x: vec4<f32>, top: f32, temperature: f32) -> vec4<f32> {
    let below = min(top - x, vec4(FAINT * temperature)) / temperature;
    return select(exp(-min(below, vec4(87.0))), vec4(0.0), below > vec4(87.0));
}

// The first id of a row whose logit is NaN or Inf, before or after the penalty; ALL where none is.
fn first_bad(row: u32, lane: u32) -> u32 {
    var first = ALL;
    for (var quad = lane; quad < quads(); quad += LANES) {
        let raw = bitcast<vec4<u32>>(unpack(logits[row * quads() + quad]));
        let used = bitcast<vec4<u32>>(scores(row, quad));
        let infinite = vec4(0x7f800000u);
        let bad = ((raw & infinite) == infinite) | ((used & infinite) == infinite);
        let at = select(vec4(ALL), ids(quad), bad & (ids(quad) < vec4(params.vocabulary)));
        first = min(first, min(min(at.x, at.y), min(at.z, at.w)));
    }
    return ~workgroup_max_u32(lane, ~first);
}

fn largest_key(row: u32, lane: u32) -> u32 {
    var largest = 0u;
    for (var quad = lane; quad < quads(); quad += LANES) {
        let exists = ids(quad) < vec4(params.vocabulary);
        let keys = select(vec4(0u), key_of(scores(row, quad)), exists);
        largest = max(largest, max(max(keys.x, keys.y), max(keys.z, keys.w)));
    }
    return workgroup_max_u32(lane, largest);
}

// The lowest id with this key.
fn first_of_key(row: u32, lane: u32, key: u32) -> u32 {
    var first = ALL;
    for (var quad = lane; quad < quads(); quad += LANES) {
        let equal = (key_of(scores(row, quad)) == vec4(key)) & (ids(quad) < vec4(params.vocabulary));
        let at = select(vec4(ALL), ids(quad), equal);
        first = min(first, min(min(at.x, at.y), min(at.z, at.w)));
    }
    return ~workgroup_max_u32(lane, ~first);
}
