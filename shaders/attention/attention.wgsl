// o[t] = sum_j softmax_j(f(scale q[t]·k[j])) v[j] over t - window < j <= t, with f the soft cap, by
// online softmax. One workgroup per ROWS queries of a head, one invocation per query. With `watch`
// row_logits[t] = (largest scale q[t]·k[j], entropy of the softmax); NaN where a score is not finite.
@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> qkv: array<Quad>;
@group(0) @binding(2) var<storage, read_write> output: array<Quad>;
// (batch, heads, time): largest score, log(sum(exp(score - largest)))
@group(0) @binding(3) var<storage, read_write> statistics: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> row_logits: array<vec2<f32>>; // (batch, heads, time)

override watch: u32 = 0u; // a constant, so that what it switches off costs nothing

// What is in the tiles, and rows that invocations hold.
fn x_quad(i: u32) -> vec4<f32> { return unpack(qkv[i]); }
fn y_quad(i: u32) -> vec4<f32> { return unpack(qkv[i]); }
fn qkv_quads(at: u32) -> Row {
    var row = Row();
    for (var d = 0u; d < head_quads(); d++) { row[d] = unpack(qkv[at + d]); }
    return row;
}

// exp(-FAINT) counts as zero; a difference of two scores beyond it may be Inf.
const FAINT = 88.0;

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
    let sequence = z / params.heads;
    let head = z % params.heads;
    let kv_head = head / (params.heads / params.kv_heads);
    let begin = flat % blocks * ROWS;
    let query = begin + lane;
    // Eight queries go through the same tiles, whoever shares a workgroup with them.
    let first_query = begin + first_of_eight(lane);
    let end = min(first_query + TILE, params.time);
    if sequence < params.batch {
        let q = query_at(sequence, head, min(query, params.time - 1u));
        let pitch = qkv_row(0u, 1u);
        let keys = Rows(key_at(sequence, kv_head, 0u), pitch);
        let values = Rows(value_at(sequence, kv_head, 0u), pitch);
        var q_row = qkv_quads(q);
        var top = LOWEST;
        var total = 0.0;
        var largest = vec4(LOWEST);
        var spread = 0.0; // sum of exp(s - top) (top - s): every term is at least 0, none cancels
        var o = Row();
        for (var first = oldest(first_query) / TILE * TILE; first < end; first += TILE) {
            load_tiles(keys, values, first, lane);
            var s = x_dots(&q_row);
            let sees_x = seen(first, query);
            let sees_y = seen(first + 4u, query);
            let x = select(vec4(LOWEST), params.scale * s[0], sees_x);
            let y = select(vec4(LOWEST), params.scale * s[1], sees_y);
            if watch != 0u { largest = max(max(largest, x), y); }
            s[0] = select(vec4(LOWEST), capped(x), sees_x);
            s[1] = select(vec4(LOWEST), capped(y), sees_y);
            let highest = max(max(vec4(top), s[0]), s[1]);
            let new_top = max(max(highest.x, highest.y), max(highest.z, highest.w));
            let rise = min(new_top - top, FAINT);
            let keep = exp_of_minus(vec4(rise)).x;
            if watch != 0u { spread = keep * (spread + rise * total); }
            total *= keep;
            let below = mat2x4(
                min(new_top - s[0], vec4(FAINT)), min(new_top - s[1], vec4(FAINT)));
            // Of a score that is not finite the weight is NaN, not zero.
            s[0] = select(vec4(0.0), poisoned(x, exp_of_minus(below[0])), sees_x);
            s[1] = select(vec4(0.0), poisoned(y, exp_of_minus(below[1])), sees_y);
            total += dot(s[0], vec4(1.0));
            total += dot(s[1], vec4(1.0));
            if watch != 0u {
                spread += dot(s[0], below[0]);
                spread += dot(s[1], below[1]);
            }
            add_y(&o, keep, s);
            top = new_top;
            leave_tiles();
        }
        if query < params.time {
            // The largest score has weight 1, so total is at least 1.
            let at = output_at(sequence, head, query);
            for (var d = 0u; d < quads; d++) { output[at + d] = pack(o[d] / total); }
            let row = statistic_at(sequence, head, query);
            // Some drivers give a number for the logarithm of NaN.
            statistics[row] = vec2(top, poisoned(vec4(total), vec4(log(total))).x);
            if watch != 0u {
                let entropy = log(total) + spread / total;
                let score = max(max(largest.x, largest.y), max(largest.z, largest.w));
                row_logits[row] = vec2(keep_nan(vec4(entropy), vec4(score)).x, entropy);
            }
        }
    }
}
