// staged = (1 - momentum) previous + momentum batch, for means and, with the unbiased variance
// rows / (rows - 1), variances. `previous` is base, or staged itself from the second microbatch
// on; base, the committed statistics, is never written here. One invocation per quad.
struct BatchNormRunningParams {
    features: u32,
    rows: u32,
    momentum: f32,
    from_staged: u32,
}

@group(0) @binding(0) var<uniform> params: BatchNormRunningParams;
// (4, features): shift, rest, biased variance, scale, as batch_norm_statistics leaves them
@group(0) @binding(1) var<storage, read> batch: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> base: array<vec4<f32>>; // (2, features)
@group(0) @binding(3) var<storage, read_write> staged: array<vec4<f32>>; // (2, features)

// The nearest f32, the largest above the range: an infinite variance would never fade. NaN stays.
fn narrowed(values: vec4<f32>) -> vec4<f32> {
    let infinite = bitcast<vec4<u32>>(values) == vec4(0x7f800000u);
    return select(values, vec4(0x1.fffffep+127), infinite);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = row_quads(params.features);
    let i = flat_group(group, groups) * 64u + lane;
    if i < 2u * quads {
        var previous = base[i];
        if params.from_staged != 0u { previous = staged[i]; }
        let q = i % quads;
        // Padding has no scale.
        let keep = is_element(q, params.features);
        let scale = select(vec4(1.0), batch[3u * quads + q], keep);
        var latest = (batch[q] + batch[quads + q]) / scale;
        if i >= quads {
            // A single row has no unbiased variance; its biased one, 0, stands in.
            let unbiased = f32(params.rows) / f32(max(params.rows, 2u) - 1u);
            // Divided twice: the square of a scale may be below the normal range.
            let once = hidden(batch[2u * quads + q] * unbiased / scale, hidden_zero(groups));
            latest = narrowed(once / scale);
        }
        let values = (1.0 - params.momentum) * previous + params.momentum * latest;
        staged[i] = masked(values, keep);
    }
}
