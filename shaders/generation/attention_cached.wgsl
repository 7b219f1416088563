// o[r] = sum_j softmax_j(f(scale q[r]·k[j])) v[j] over positions[r] - window < j <= positions[r] of
// a cache, with f the soft cap, by online softmax over 64 keys at a time. One workgroup per row and
// head: lanes share the keys for the scores, then columns and keys for the sums. Rows whose position
// is not below `context` are zero.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>; // `time` rows of each sequence
@group(0) @binding(2) var<storage, read> positions: array<u32>; // (batch, time)
@group(0) @binding(3) var<storage, read> keys: array<Quad>; // (batch, kv_heads, context, head)
@group(0) @binding(4) var<storage, read> values: array<Quad>;
@group(0) @binding(5) var<storage, read_write> output: array<Quad>;

override context: u32 = 0u; // positions of the cache

const KEYS = 64u; // at a time
const SCORES = KEYS / LANES; // to a lane
const OWNED = (MAX_HEAD_QUADS + LANES - 1u) / LANES; // quads of the output to a lane, at most
const FAINT = 88.0; // exp(-FAINT) counts as zero; a difference beyond it may be Inf

var<workgroup> query: array<vec4<f32>, MAX_HEAD_QUADS>;
var<workgroup> weights: array<f32, KEYS>;
var<workgroup> parts: array<vec4<f32>, MAX_HEAD_QUADS + LANES>;

fn score(cache: u32, key: u32) -> f32 {
    var sum = 0.0;
    let at = (cache + key) * head_quads();
    for (var d = 0u; d < head_quads(); d++) { sum += dot(query[d], unpack(keys[at + d])); }
    return params.scale * sum;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = head_quads();
    let flat = flat_group(group, groups);
    let rows = params.batch * params.time;
    let row = min(flat / params.heads, rows - 1u);
    let head = flat % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let position = positions[row];
    let exists = position < context;
    let end = select(0u, position + 1u, exists);
    let begin = select(0u, oldest(position), exists);
    let cache = (row / params.time * params.kv_heads + kv_head) * context;
    let q = query_at(0u, head, row);
    for (var d = lane; d < quads; d += LANES) { query[d] = unpack(qkv[q + d]); }
    workgroupBarrier();
    // Lanes beyond the columns take other keys of the same columns.
    let shares = max(1u, LANES / quads);
    var top = LOWEST;
    var total = 0.0;
    var sums = array<vec4<f32>, OWNED>();
    for (var first = begin; first < end; first += KEYS) {
        let count = min(KEYS, end - first);
        var raw = array<f32, SCORES>();
        var own = LOWEST;
        for (var i = 0u; i < SCORES; i++) {
            let key = lane + i * LANES;
            if key < count {
                raw[i] = score(cache, first + key);
                own = max(own, capped(vec4(raw[i])).x);
            }
        }
        let new_top = max(top, workgroup_max(lane, own));
        let keep = exp_of_minus(vec4(min(new_top - top, FAINT))).x;
        total *= keep;
        for (var i = 0u; i < SCORES; i++) {
            let key = lane + i * LANES;
            if key < count {
                let below = min(new_top - capped(vec4(raw[i])), vec4(FAINT));
                // Of a score that is not finite the weight is NaN, not zero.
                let weight = poisoned(vec4(raw[i]), exp_of_minus(below)).x;
                weights[key] = weight;
                total += weight;
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < OWNED; i++) {
            let unit = lane + i * LANES;
            if unit < quads * shares {
                var sum = sums[i] * keep;
                for (var key = unit / quads; key < count; key += shares) {
                    let at = (cache + first + key) * quads + unit % quads;
                    sum += weights[key] * unpack(values[at]);
                }
                sums[i] = sum;
            }
        }
        workgroupBarrier();
        top = new_top;
    }
    for (var i = 0u; i < OWNED; i++) {
        let unit = lane + i * LANES;
        if unit < quads * shares { parts[unit] = sums[i]; }
    }
    let whole = workgroup_sum(lane, total);
    if flat < rows * params.heads {
        for (var d = lane; d < quads; d += LANES) {
            var sum = vec4(0.0);
            for (var share = 0u; share < shares; share++) { sum += parts[share * quads + d]; }
            // The largest score has weight 1, so the total is at least 1 where there is a key.
            let mean = select(vec4(0.0), sum / whole, exists);
            output[output_at(0u, head, row) + d] = pack(mean);
        }
    }
}
