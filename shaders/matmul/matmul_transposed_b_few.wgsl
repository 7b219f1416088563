// C = f(alpha A·Bᵀ + bias), overwriting or adding, for few rows. One workgroup per block of 4 x 4
// elements: lanes share its sums over `inner` and fold them as a tree, in fixed order.
@group(0) @binding(0) var<uniform> params: ActivatedProductParams;
@group(0) @binding(1) var<storage, read> a: array<Quad>; // (batch, rows, inner)
@group(0) @binding(2) var<storage, read> b: array<StoredB>; // (batch, cols, inner)
@group(0) @binding(3) var<storage, read> bias: array<Quad>; // (cols)
@group(0) @binding(4) var<storage, read_write> c: array<Quad>; // (batch, rows, cols)
@group(0) @binding(5) var<storage, read_write> pre_activation: array<Quad>; // laid out as c

var<workgroup> sums: array<array<vec4<f32>, 4>, LANES>; // rows of a block

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let flat = flat_group(group, groups);
    let col_quads = (params.cols + 3u) / 4u;
    let row_quads = (params.rows + 3u) / 4u;
    let quad = flat % col_quads;
    let row_quad = flat / col_quads % row_quads;
    let z = min(flat / (col_quads * row_quads), params.batch - 1u);
    let outer = z / params.inner_count;
    let inner = z % params.inner_count;
    let a_rows = a_origin(outer, inner, row_quad);
    let b_rows = b_origin(outer, inner, quad);
    var block = mat4x4<f32>(); // matrix columns are rows of C
    for (var k = lane; 4u * k < params.inner; k += LANES) {
        let terms = b_block(b_rows, k);
        let rows = a_block(a_rows, k);
        block += mat4x4(terms * rows[0], terms * rows[1], terms * rows[2], terms * rows[3]);
    }
    for (var i = 0u; i < 4u; i++) { sums[lane][i] = block[i]; }
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride {
            for (var i = 0u; i < 4u; i++) { sums[lane][i] += sums[lane + stride][i]; }
        }
    }
    workgroupBarrier();
    if lane < 4u && flat < col_quads * row_quads * params.batch {
        let first = params.c_offset + outer * params.c_outer_stride + inner * params.c_inner_stride;
        store_row(first, 4u * row_quad + lane, quad, sums[0][lane]);
    }
}
