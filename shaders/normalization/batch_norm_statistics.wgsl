// What normalizes each column of x: (4, features) of shift, rest, biased variance and scale. The mean
// is (shift + rest) / scale, the variance that of x scale. Two passes as shared/row_moments.wgsl, the
// shift being the first row. One workgroup per quad of features.
struct BatchNormStatisticsParams {
    rows: u32,
    features: u32,
}

@group(0) @binding(0) var<uniform> params: BatchNormStatisticsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, features)
@group(0) @binding(2) var<storage, read_write> statistics: array<vec4<f32>>; // (4, features)

var<workgroup> agreement: u32;

// What invocation 0 wants, in all of them: FXC cannot see that they want the same.
fn agreed(lane: u32, wanted: bool) -> bool {
    if lane == 0u { agreement = u32(wanted); }
    let all = workgroupUniformLoad(&agreement);
    return all != 0u;
}

struct ColumnMoments { rest: vec4<f32>, squares: vec4<f32> }

fn moments_about(
    lane: u32, quad: u32, shift: vec4<f32>, scale: vec4<f32>, zero: u32,
) -> ColumnMoments {
    let quads = row_quads(params.features);
    var partial = vec4(0.0);
    for (var row = lane; row < params.rows; row += LANES) {
        partial += unpack(x[row * quads + quad]) * scale - shift;
    }
    let rest = workgroup_sum_vec4(lane, partial) / f32(params.rows);
    var squares = vec4(0.0);
    for (var row = lane; row < params.rows; row += LANES) {
        let deviation = centred(unpack(x[row * quads + quad]) * scale, shift, rest, zero);
        squares += deviation * deviation;
    }
    let total = workgroup_sum_vec4(lane, squares);
    return ColumnMoments(rest, total);
}

fn column_scales(lane: u32, quad: u32) -> vec4<f32> {
    let quads = row_quads(params.features);
    var largest = vec4(0u);
    for (var row = lane; row < params.rows; row += LANES) {
        let bits = bitcast<vec4<u32>>(unpack(x[row * quads + quad]));
        largest = max(largest, bits & vec4(0x7fffffffu));
    }
    return vec4(
        scale_below(workgroup_max_u32(lane, largest.x)),
        scale_below(workgroup_max_u32(lane, largest.y)),
        scale_below(workgroup_max_u32(lane, largest.z)),
        scale_below(workgroup_max_u32(lane, largest.w)),
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quad = flat_group(group, groups);
    let quads = row_quads(params.features);
    if quad < quads {
        let zero = hidden_zero(groups);
        let first = unpack(x[quad]);
        var shift = first;
        var scale = vec4(1.0);
        var found = moments_about(lane, quad, shift, scale, zero);
        let huge = bitcast<vec4<u32>>(found.squares) >= vec4(OVERFLOWED);
        if agreed(lane, any(huge)) {
            scale = select(scale, column_scales(lane, quad), huge);
            shift = scaled_shift(first, scale, zero);
            found = moments_about(lane, quad, shift, scale, zero);
        }
        let far = found.rest * found.rest > FAR * (found.squares / f32(params.rows));
        if agreed(lane, any(far)) {
            shift = select(shift, shift + found.rest, far);
            found = moments_about(lane, quad, shift, scale, zero);
        }
        if lane == 0u {
            let keep = is_element(quad, params.features);
            statistics[quad] = masked(shift, keep);
            statistics[quads + quad] = masked(found.rest, keep);
            statistics[2u * quads + quad] = masked(found.squares / f32(params.rows), keep);
            statistics[3u * quads + quad] = masked(scale, keep);
        }
    }
}
