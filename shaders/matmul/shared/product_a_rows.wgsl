// A stored as (rows, inner). Rows beyond the last repeat it: their products are not stored.
const A_ALONG_INNER = true; // whether a stored row is one of `inner`

fn a_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    let first = params.a_offset + outer * params.a_outer_stride
        + inner / params.a_inner_group * params.a_inner_stride;
    let row = min(4u * quad + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
    return first + row * params.a_row_stride;
}

// Four rows of A, four elements each from element 4k: the columns of the matrix.
fn a_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    let i = origin + k;
    return mat4x4(unpack(a[i.x]), unpack(a[i.y]), unpack(a[i.z]), unpack(a[i.w]));
}
