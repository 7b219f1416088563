// dx = rstd * (w dy - mean(w dy) - xhat mean(w dy xhat)) with xhat = (x - mean) rstd, the means
// over the row; plus residual_gradient where add_residual is set. One workgroup per row.
struct LayerNormBackwardParams {
    rows: u32,
    cols: u32,
    add_residual: u32,
}

@group(0) @binding(0) var<uniform> params: LayerNormBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, cols)
@group(0) @binding(2) var<storage, read> weight: array<Quad>; // (cols)
@group(0) @binding(3) var<storage, read> dy: array<Quad>; // (rows, cols)
@group(0) @binding(4) var<storage, read> statistics: array<vec4<f32>>; // (rows), as layer_norm
@group(0) @binding(5) var<storage, read> residual_gradient: array<Quad>; // (rows, cols)
@group(0) @binding(6) var<storage, read_write> x_gradient: array<Quad>; // (rows, cols)

fn normalized(i: u32, found: vec4<f32>, zero: u32) -> vec4<f32> {
    return centred(unpack(x[i]) * found.w, vec4(found.x), vec4(found.y), zero) * found.z;
}

// Means over the row of g, g xhat and g^2, with g = w dy - centre. Since xhat adds up to 0, g xhat
// has the mean of w dy xhat.
fn gradient_means(lane: u32, base: u32, found: vec4<f32>, centre: f32, zero: u32) -> vec4<f32> {
    var partial = vec3(0.0);
    for (var q = lane; q < row_quads(params.cols); q += LANES) {
        let keep = is_element(q, params.cols);
        let xhat = masked(normalized(base + q, found, zero), keep);
        let g = masked(unpack(weight[q]) * unpack(dy[base + q]) - centre, keep);
        partial += vec3(sum4(g), dot(g, xhat), dot(g, g));
    }
    return workgroup_sum_vec4(lane, vec4(partial, 0.0)) / f32(params.cols);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let quads = row_quads(params.cols);
        let base = row * quads;
        let zero = hidden_zero(groups);
        let found = statistics[row];
        var centre = 0.0;
        var means = vec4<f32>();
        var is_centred = false;
        while true {
            means = gradient_means(lane, base, found, centre, zero);
            if is_centred { break; }
            if means.x * means.x > ALIKE * means.z {
                // w dy is much the same throughout, and what counts of it is how it differs.
                is_centred = true;
                centre = means.x;
            } else {
                break;
            }
        }
        for (var q = lane; q < quads; q += LANES) {
            let g = unpack(weight[q]) * unpack(dy[base + q]) - centre;
            let xhat = normalized(base + q, found, zero);
            var values = found.z * (g - means.x - xhat * means.y) * found.w;
            if params.add_residual != 0u { values += unpack(residual_gradient[base + q]); }
            x_gradient[base + q] = pack(masked(values, is_element(q, params.cols)));
        }
    }
}
