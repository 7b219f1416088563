// y = x / sqrt(mean(x^2) + eps) * (weight_offset + weight) over each query and key head of a row,
// after x -= mean(x) where `centered` is set; value heads are copied. One workgroup per
// 64 >> head_shift() heads.
struct HeadNormParams {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_quads: u32,
    centered: u32,
    eps: f32,
    weight_offset: f32,
}

@group(0) @binding(0) var<uniform> params: HeadNormParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, heads + 2 kv_heads, head_quads)
@group(0) @binding(2) var<storage, read> query_weight: array<Quad>; // (head_quads)
@group(0) @binding(3) var<storage, read> key_weight: array<Quad>; // (head_quads)
@group(0) @binding(4) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let shift = head_shift();
    let head = flat_group(group, groups) * (64u >> shift) + (lane >> shift);
    let column = head % column_heads();
    let quad = lane - ((lane >> shift) << shift);
    let exists = head < params.rows * column_heads() && quad < params.head_quads;
    let start = head * params.head_quads;
    let i = start + quad;
    let zero = hidden_zero(groups);
    let count = 4.0 * f32(params.head_quads);
    var moments = HeadMoments(0.0, 0.0, 1.0, 1.0);
    var values = vec4(0.0);
    if exists {
        if params.centered != 0u { moments.shift = unpack(x[start]).x; }
        values = unpack(x[i]) - moments.shift;
    }
    if params.centered != 0u {
        moments.rest = head_sum(lane, shift, vec2(sum4(values), 0.0)).x / count;
        if exists { values = head_deviations(unpack(x[i]), moments, zero); }
    }
    let squares = head_sum(lane, shift, vec2(dot(values, values), 0.0)).x;
    moments.rstd = inverseSqrt(squares / count + params.eps);
    if exists && is_normed(column) && overflowed(squares) {
        moments = scaled_moments(start, zero);
        values = head_deviations(unpack(x[i]), moments, zero);
    }
    if exists {
        if column < params.heads {
            y[i] = pack(values * moments.rstd * full_weight(unpack(query_weight[quad])));
        } else if is_normed(column) {
            y[i] = pack(values * moments.rstd * full_weight(unpack(key_weight[quad])));
        } else {
            y[i] = x[i];
        }
    }
}
