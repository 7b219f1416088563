// Column sums by workgroups of 64: up to 16 quads side by side, so that loads are wide, and the
// rows dealt out to the other invocations. Narrow tensors get fewer quads and more rows at once.
var<workgroup> column_tile: array<vec4<f32>, 64>;

// A power of two; src/kernels/reduce.rs computes the same.
fn tile_width(col_quads: u32) -> u32 {
    return min(16u, 1u << (32u - countLeadingZeros(max(col_quads, 1u) - 1u)));
}

// Sums over the invocations with the same `lane % width`, in fixed order; the first `width` get
// the results. Every invocation must call it, in uniform control flow.
fn fold_tile(lane: u32, width: u32, value: vec4<f32>) -> vec4<f32> {
    column_tile[lane] = value;
    for (var stride = 32u; stride >= width; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { column_tile[lane] += column_tile[lane + stride]; }
    }
    let total = column_tile[lane];
    workgroupBarrier();
    return total;
}
