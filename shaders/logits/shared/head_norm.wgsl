// Rows of heads, dealt out to workgroups of 64: a power of two of invocations to each head, one quad
// to each of them, so that loads are wide. A head has at most 32 quads.
var<workgroup> head_sums: array<vec2<f32>, 64>;

// The power of two as an exponent: divisions by it are shifts.
fn head_shift() -> u32 { return 32u - countLeadingZeros(params.head_quads - 1u); }
fn column_heads() -> u32 { return params.heads + 2u * params.kv_heads; }
fn is_normed(column: u32) -> bool { return column < params.heads + params.kv_heads; }

// Sums over the invocations of one head, as a tree in fixed order; all of them get the result. Every
// invocation of the workgroup must call it, in uniform control flow.
fn head_sum(lane: u32, shift: u32, value: vec2<f32>) -> vec2<f32> {
    let first = (lane >> shift) << shift;
    head_sums[lane] = value;
    for (var stride = (1u << shift) >> 1u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane - first < stride { head_sums[lane] += head_sums[lane + stride]; }
    }
    workgroupBarrier();
    let total = head_sums[first];
    workgroupBarrier();
    return total;
}
