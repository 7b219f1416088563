// loss[r] = (1 - e) nll + e mean_c(-log p[r, c]) + z_loss lse^2, nll = -log p[r, targets[r]], e the
// label smoothing; 0 where the target is ignore_index. One workgroup per row. Columns from
// `classes` on are never read. A target that is no class makes its row NaN.
struct CrossEntropyParams {
    rows: u32,
    row_quads: u32,
    classes: u32,
    ignore_index: u32,
    label_smoothing: f32,
    z_loss: f32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyParams;
@group(0) @binding(1) var<storage, read> logits: array<Quad>; // (rows, 4 row_quads)
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> loss: array<f32>; // (rows)
// (rows): max, lse - max
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let base = row * params.row_quads;
        let class_index = targets[row];
        let ignored = class_index == params.ignore_index;
        let quads = select(row_quads(params.classes), 0u, ignored);
        let first = unpack(logits[base]).x;
        var running = no_exponentials();
        var partial = 0.0;
        for (var q = lane; q < quads; q += LANES) {
            let x = unpack(logits[base + q]);
            let keep = is_element(q, params.classes);
            running = count_exponentials(running, x, keep);
            partial += sum4(masked(x - first, keep));
        }
        let total = workgroup_log_sum_exp(lane, running);
        // All logits relative to one of them: a common offset must not cost the loss its digits.
        var uniform_nll = 0.0;
        if params.label_smoothing != 0.0 {
            let mean_logit = workgroup_sum(lane, partial) / f32(params.classes);
            uniform_nll = total.log_sum + ((total.largest - first) - mean_logit);
        }
        if lane == 0u {
            var value = 0.0;
            var saved = vec2(0.0);
            if !ignored {
                let picked = unpack(logits[base + min(class_index, params.classes - 1u) / 4u]);
                value = total.log_sum + (total.largest - picked[class_index % 4u]);
                value = mix(value, uniform_nll, params.label_smoothing);
                let lse = total.largest + total.log_sum;
                value += params.z_loss * lse * lse;
                if class_index >= params.classes { value = nan_from(class_index); }
                saved = vec2(total.largest, total.log_sum);
            }
            loss[row] = value;
            statistics[row] = saved;
        }
    }
}
