// Rows of heads, dealt out to workgroups of 64: a power of two of invocations to each head, one quad
// to each of them, so that loads are wide. A head has at most 64 quads.
var<workgroup> head_sums: array<vec2<f32>, 64>;

// The power of two as an exponent: divisions by it are shifts.
fn head_shift() -> u32 { return 32u - countLeadingZeros(params.head_quads - 1u); }
fn column_heads() -> u32 { return params.heads + 2u * params.kv_heads; }
fn is_normed(column: u32) -> bool { return column < params.heads + params.kv_heads; }

// How a head is normalized: x scale has the mean shift + rest and the standard deviation 1 / rstd.
struct HeadMoments { shift: f32, rest: f32, rstd: f32, scale: f32 }

fn head_deviations(x: vec4<f32>, moments: HeadMoments, zero: u32) -> vec4<f32> {
    return centred(x * moments.scale, vec4(moments.shift), vec4(moments.rest), zero);
}

// Those of a head whose squares overflow, which begins at quad `start` of `x`: by one invocation
// alone, since the others of the workgroup are not with it. NaN where the head holds NaN or Inf.
fn scaled_moments(start: u32, zero: u32) -> HeadMoments {
    var largest = 0u;
    for (var q = 0u; q < params.head_quads; q++) {
        largest = max(largest, magnitude4(unpack(x[start + q])));
    }
    var found = HeadMoments(0.0, 0.0, 1.0, scale_below(largest));
    let count = 4.0 * f32(params.head_quads);
    if params.centered != 0u {
        found.shift = scaled_shift(unpack(x[start]), vec4(found.scale), zero).x;
        var sum = 0.0;
        for (var q = 0u; q < params.head_quads; q++) {
            sum += sum4(unpack(x[start + q]) * found.scale - found.shift);
        }
        found.rest = sum / count;
    }
    var squares = 0.0;
    for (var q = 0u; q < params.head_quads; q++) {
        let values = head_deviations(unpack(x[start + q]), found, zero);
        squares += dot(values, values);
    }
    found.rstd = inverseSqrt(squares / count + params.eps * found.scale * found.scale);
    return found;
}

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
