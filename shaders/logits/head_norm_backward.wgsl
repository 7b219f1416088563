// dx = rstd (w dy - [mean(w dy)] - xhat mean(w dy xhat)) over each query and key head, the bracket
// where `centered` is set, xhat = x rstd after centring, w = weight_offset + weight; dy of value
// heads is copied. partials[b] = sum of dy xhat over the heads of block b, queries and keys apart.
// One workgroup per block of rows.
struct HeadNormBackwardParams {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_quads: u32,
    centered: u32,
    eps: f32,
    rows_per_block: u32,
    blocks: u32,
    weight_offset: f32,
}

@group(0) @binding(0) var<uniform> params: HeadNormBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, heads + 2 kv_heads, head_quads)
@group(0) @binding(2) var<storage, read> query_weight: array<Quad>; // (head_quads)
@group(0) @binding(3) var<storage, read> key_weight: array<Quad>; // (head_quads)
@group(0) @binding(4) var<storage, read> dy: array<Quad>; // as x
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Quad>; // as x
@group(0) @binding(6) var<storage, read_write> query_partials: array<vec4<f32>>; // (blocks, quads)
@group(0) @binding(7) var<storage, read_write> key_partials: array<vec4<f32>>; // (blocks, quads)

// The gradient of xhat in quad q of a query or key head.
fn weighted_gradient(start: u32, q: u32, is_query: bool) -> vec4<f32> {
    if is_query { return unpack(dy[start + q]) * full_weight(unpack(query_weight[q])); }
    return unpack(dy[start + q]) * full_weight(unpack(key_weight[q]));
}

// Mean of the gradient, less its centre, times the deviations, over a head that is scaled.
fn scaled_projection(
    start: u32, is_query: bool, centre: f32, moments: HeadMoments, zero: u32,
) -> f32 {
    var sum = 0.0;
    for (var q = 0u; q < params.head_quads; q++) {
        let values = head_deviations(unpack(x[start + q]), moments, zero);
        sum += dot(weighted_gradient(start, q, is_query) - centre, values);
    }
    return sum / (4.0 * f32(params.head_quads));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let shift = head_shift();
    let quad = lane - ((lane >> shift) << shift);
    let block = flat_group(group, groups);
    let zero = hidden_zero(groups);
    let count = 4.0 * f32(params.head_quads);
    let end = min(params.rows, (block + 1u) * params.rows_per_block) * column_heads();
    var query_sum = vec4(0.0);
    var key_sum = vec4(0.0);
    var first = block * params.rows_per_block * column_heads();
    for (; first < end; first += 64u >> shift) {
        let head = first + (lane >> shift);
        let column = head % column_heads();
        let is_query = column < params.heads;
        let exists = head < end && quad < params.head_quads;
        let start = head * params.head_quads;
        let i = start + quad;
        var moments = HeadMoments(0.0, 0.0, 1.0, 1.0);
        var values = vec4(0.0);
        var weighted = vec4(0.0);
        var centre = 0.0; // of weighted: what all of it has in common does not count
        if exists {
            if params.centered != 0u { moments.shift = unpack(x[start]).x; }
            values = unpack(x[i]) - moments.shift;
            if is_normed(column) {
                if params.centered != 0u { centre = weighted_gradient(start, 0u, is_query).x; }
                weighted = weighted_gradient(start, quad, is_query) - centre;
            }
        }
        var mean = 0.0; // of weighted
        if params.centered != 0u {
            let means = head_sum(lane, shift, vec2(sum4(values), sum4(weighted))) / count;
            moments.rest = means.x;
            mean = means.y;
            if exists { values = head_deviations(unpack(x[i]), moments, zero); }
        }
        let sums = head_sum(lane, shift, vec2(dot(values, values), dot(weighted, values)));
        moments.rstd = inverseSqrt(sums.x / count + params.eps);
        var projection = sums.y / count;
        if exists && is_normed(column) && overflowed(sums.x) {
            moments = scaled_moments(start, zero);
            values = head_deviations(unpack(x[i]), moments, zero);
            projection = scaled_projection(start, is_query, centre, moments, zero);
        }
        let normalized = values * moments.rstd;
        if exists {
            if is_normed(column) {
                let along = normalized * (moments.rstd * projection);
                let gradient = moments.rstd * (weighted - mean - along) * moments.scale;
                x_gradient[i] = pack(gradient);
                if is_query {
                    query_sum += unpack(dy[i]) * normalized;
                } else {
                    key_sum += unpack(dy[i]) * normalized;
                }
            } else {
                x_gradient[i] = dy[i];
            }
        }
    }
    let query_total = fold_tile(lane, 1u << shift, query_sum);
    let key_total = fold_tile(lane, 1u << shift, key_sum);
    if lane < (1u << shift) && quad < params.head_quads && block < params.blocks {
        query_partials[block * params.head_quads + quad] = query_total;
        key_partials[block * params.head_quads + quad] = key_total;
    }
}
