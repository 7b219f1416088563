// dx = rstd (w dy - [mean(w dy)] - xhat mean(w dy xhat)) over each query and key head, the bracket
// where `centered` is set, xhat = x rstd after centring; dy of value heads is copied. partials[b] =
// sum of dy xhat over the heads of block b, queries and keys apart. One workgroup per block of rows.
struct HeadNormBackwardParams {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_quads: u32,
    centered: u32,
    eps: f32,
    rows_per_block: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> params: HeadNormBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, heads + 2 kv_heads, head_quads)
@group(0) @binding(2) var<storage, read> query_weight: array<Quad>; // (head_quads)
@group(0) @binding(3) var<storage, read> key_weight: array<Quad>; // (head_quads)
@group(0) @binding(4) var<storage, read> dy: array<Quad>; // as x
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Quad>; // as x
@group(0) @binding(6) var<storage, read_write> query_partials: array<vec4<f32>>; // (blocks, quads)
@group(0) @binding(7) var<storage, read_write> key_partials: array<vec4<f32>>; // (blocks, quads)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let shift = head_shift();
    let quad = lane - ((lane >> shift) << shift);
    let block = flat_group(group, groups);
    let count = 4.0 * f32(params.head_quads);
    let end = min(params.rows, (block + 1u) * params.rows_per_block) * column_heads();
    var query_sum = vec4(0.0);
    var key_sum = vec4(0.0);
    var first = block * params.rows_per_block * column_heads();
    for (; first < end; first += 64u >> shift) {
        let head = first + (lane >> shift);
        let column = head % column_heads();
        let exists = head < end && quad < params.head_quads;
        let i = head * params.head_quads + quad;
        var values = vec4(0.0);
        var upstream = vec4(0.0);
        var weighted = vec4(0.0);
        if exists {
            values = unpack(x[i]);
            upstream = unpack(dy[i]);
            if column < params.heads {
                weighted = upstream * unpack(query_weight[quad]);
            } else if is_normed(column) {
                weighted = upstream * unpack(key_weight[quad]);
            }
        }
        var mean = vec2(0.0); // of x and of weighted
        if params.centered != 0u {
            mean = head_sum(lane, shift, vec2(sum4(values), sum4(weighted))) / count;
            values = select(vec4(0.0), values - mean.x, exists);
        }
        let sums = head_sum(lane, shift, vec2(dot(values, values), dot(weighted, values))) / count;
        let rstd = inverseSqrt(sums.x + params.eps);
        let normalized = values * rstd;
        if exists {
            if is_normed(column) {
                x_gradient[i] = pack(rstd * (weighted - mean.y - normalized * (rstd * sums.y)));
            } else {
                x_gradient[i] = dy[i];
            }
        }
        if column < params.heads {
            query_sum += upstream * normalized;
        } else if is_normed(column) {
            key_sum += upstream * normalized;
        }
    }
    let query_total = fold_tile(lane, 1u << shift, query_sum);
    let key_total = fold_tile(lane, 1u << shift, key_sum);
    if lane < (1u << shift) && quad < params.head_quads && block < params.blocks {
        query_partials[block * params.head_quads + quad] = query_total;
        key_partials[block * params.head_quads + quad] = key_total;
    }
}
