// C = alpha A·B where the sums go on from what an earlier dispatch left. One workgroup per
// tile, in registers only.
@group(0) @binding(0) var<uniform> params: ResumedProductParams;
@group(0) @binding(1) var<storage, read> a: array<Quad>; // (batch, rows, inner)
@group(0) @binding(2) var<storage, read> b: array<StoredB>; // (batch, inner, cols)
@group(0) @binding(3) var<storage, read> pre_activation: array<Quad>; // laid out as c
@group(0) @binding(4) var<storage, read_write> sums: array<vec4<f32>>; // laid out as c
@group(0) @binding(5) var<storage, read_write> c: array<Quad>; // (batch, rows, cols)

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    multiply(flat_group(group, groups), lane);
}
