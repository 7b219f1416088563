// 1 / sqrt(mean((x scale)^2) + eps scale^2) of a row of the kernel's `row_values`, and the scale: 1,
// but for rows whose squares overflow.
fn sum_of_squares(lane: u32, base: u32, quads: u32, scale: f32) -> f32 {
    var partial = vec4(0.0);
    for (var q = lane; q < quads; q += LANES) {
        let values = row_values(base + q) * scale;
        partial += values * values;
    }
    return workgroup_sum(lane, sum4(partial));
}

fn row_rstd(lane: u32, base: u32, cols: u32, eps: f32) -> vec2<f32> {
    let quads = row_quads(cols);
    var scale = 1.0;
    var squares = sum_of_squares(lane, base, quads, scale);
    if overflowed(squares) {
        scale = row_scale(lane, base, quads);
        squares = sum_of_squares(lane, base, quads, scale);
    }
    return vec2(inverseSqrt(squares / f32(cols) + eps * scale * scale), scale);
}
