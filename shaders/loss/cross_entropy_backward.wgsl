// dlogits = upstream M / N * (p (1 + 2 z_loss lse) - (1 - e) [c = target] - e / classes), with
// p = exp(x - lse); exact zeros in ignored rows and from column `classes` on. One invocation per
// quad. p - 1 of the target comes as -(1 - exp(-nll)), which does not cancel as p nears 1.
struct CrossEntropyBackwardParams {
    rows: u32,
    row_quads: u32,
    classes: u32,
    ignore_index: u32,
    label_smoothing: f32,
    z_loss: f32,
}

@group(0) @binding(0) var<uniform> params: CrossEntropyBackwardParams;
@group(0) @binding(1) var<storage, read> logits: array<Quad>; // (rows, 4 row_quads)
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read> statistics: array<vec2<f32>>; // (rows): max, lse - max
@group(0) @binding(4) var<storage, read> mean: array<f32>; // (2): mean loss, M / N
@group(0) @binding(5) var<storage, read> upstream: array<f32>; // (1)
@group(0) @binding(6) var<storage, read_write> dlogits: array<Quad>; // (rows, 4 row_quads)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * params.row_quads {
        let row = i / params.row_quads;
        let q = i % params.row_quads;
        let class_index = targets[row];
        let keep = is_element(q, params.classes);
        var values = vec4(0.0);
        if class_index != params.ignore_index && any(keep) {
            let largest = statistics[row].x;
            let log_sum = statistics[row].y;
            // (largest - x) first: both are logits, so their common offset drops out exactly.
            let nll = log_sum + (vec4(largest) - unpack(logits[i]));
            let p = exp4_nonpositive(-nll);
            let z_factor = 2.0 * params.z_loss * (largest + log_sum);
            let spread = params.label_smoothing / f32(params.classes);
            values = p + p * z_factor - spread;
            if class_index / 4u == q {
                let j = class_index % 4u;
                let target_value = params.label_smoothing - one_minus_exp(nll[j]);
                let value = target_value + p[j] * z_factor - spread;
                values = select(values, vec4(value), vec4(0u, 1u, 2u, 3u) == vec4(j));
            }
            values = masked(values * (upstream[0] * mean[1]), keep);
            if class_index >= params.classes {
                values = masked(vec4(nan_from(class_index)), keep);
            }
        }
        dlogits[i] = pack(values);
    }
}
