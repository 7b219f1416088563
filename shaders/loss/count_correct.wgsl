// correct[r] = 1 if the first largest of the row's `classes` logits is at targets[r], else 0; 0
// where the target is ignore_index. One workgroup per row.
struct CountCorrectParams {
    rows: u32,
    row_quads: u32,
    classes: u32,
    ignore_index: u32,
}

@group(0) @binding(0) var<uniform> params: CountCorrectParams;
@group(0) @binding(1) var<storage, read> logits: array<Quad>; // (rows, 4 row_quads)
@group(0) @binding(2) var<storage, read> targets: array<u32>; // (rows)
@group(0) @binding(3) var<storage, read_write> correct: array<f32>; // (rows)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = flat_group(group, groups);
    if row < params.rows {
        let base = row * params.row_quads;
        var best = -0x1.fffffep+127;
        var index = 0xffffffffu;
        for (var q = lane; q < row_quads(params.classes); q += LANES) {
            let x = unpack(logits[base + q]);
            for (var j = 0u; j < 4u && 4u * q + j < params.classes; j++) {
                // In this order: naga negates the first of the two, which a NaN must not be part of.
                if index == 0xffffffffu || x[j] > best {
                    best = x[j];
                    index = 4u * q + j;
                }
            }
        }
        let largest = workgroup_max(lane, best);
        // The smallest index, as the largest complement.
        let complement = workgroup_max_u32(lane, select(0u, ~index, best == largest));
        if lane == 0u {
            let class_index = targets[row];
            let hit = class_index != params.ignore_index && ~complement == class_index;
            correct[row] = select(0.0, 1.0, hit);
        }
    }
}
