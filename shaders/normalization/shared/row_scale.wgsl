// The scale that brings the largest of a row of the kernel's `row_values` near 1; NaN where the row
// holds NaN or Inf.
fn row_scale(lane: u32, base: u32, quads: u32) -> f32 {
    var largest = 0u;
    for (var q = lane; q < quads; q += LANES) {
        largest = max(largest, magnitude4(row_values(base + q)));
    }
    return scale_below(workgroup_max_u32(lane, largest));
}
