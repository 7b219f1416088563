// Mean and variance of a row of the kernel's `row_values`, in two passes, never E[x^2] - mean^2. The
// mean is shift + rest, the shift being the row's first element, so that a large common offset costs
// no digits and a constant row is exactly centred. A third and fourth pass only for rows that want
// them: scaled where squares overflow, about their mean where the first element is unlike the rest.
struct RowMoments {
    shift: f32,
    rest: f32,
    squares: f32, // sum of the squared deviations
    scale: f32, // of the row in all of these: x scale
}

fn moments_about(
    lane: u32, base: u32, cols: u32, shift: f32, scale: f32, zero: u32,
) -> RowMoments {
    let quads = row_quads(cols);
    var partial = vec4(0.0);
    for (var q = lane; q < quads; q += LANES) {
        partial += masked(row_values(base + q) * scale - shift, is_element(q, cols));
    }
    let rest = workgroup_sum(lane, sum4(partial)) / f32(cols);
    var squares = vec4(0.0);
    for (var q = lane; q < quads; q += LANES) {
        let deviation = centred(row_values(base + q) * scale, vec4(shift), vec4(rest), zero);
        squares += masked(deviation * deviation, is_element(q, cols));
    }
    let total = workgroup_sum(lane, sum4(squares));
    return RowMoments(shift, rest, total, scale);
}

// One loop, since compilers that take functions apart where they are called would do so three times.
fn row_moments(lane: u32, base: u32, cols: u32, first: f32, zero: u32) -> RowMoments {
    var shift = first;
    var scale = 1.0;
    var found = RowMoments();
    var is_scaled = false;
    var is_moved = false;
    while true {
        found = moments_about(lane, base, cols, shift, scale, zero);
        if is_moved { break; }
        if !is_scaled && overflowed(found.squares) {
            is_scaled = true;
            scale = row_scale(lane, base, row_quads(cols));
            shift = scaled_shift(vec4(first), vec4(scale), zero).x;
        } else if found.rest * found.rest > FAR * (found.squares / f32(cols)) {
            is_moved = true;
            shift = found.shift + found.rest;
        } else {
            break;
        }
    }
    return found;
}
