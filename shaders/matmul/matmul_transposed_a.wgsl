// C = alpha Aᵀ·B, overwriting or adding. One workgroup per tile.
@group(0) @binding(0) var<uniform> params: ProductParams;
@group(0) @binding(1) var<storage, read> a: array<Quad>; // (batch, inner, rows)
@group(0) @binding(2) var<storage, read> b: array<StoredB>; // (batch, inner, cols)
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>; // (batch, rows, cols)

fn store(at: u32, quad: u32, value: vec4<f32>) {
    var total = value;
    if params.accumulate != 0u { total += c[at]; }
    c[at] = total;
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    multiply(flat_group(group, groups), lane);
}
