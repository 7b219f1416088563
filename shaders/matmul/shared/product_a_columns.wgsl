// A stored as (inner, rows). Quads beyond the last repeat it: their products are not stored.
const A_ALONG_INNER = false; // whether a stored row is one of `inner`

fn a_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    let first = params.a_offset + outer * params.a_outer_stride
        + inner / params.a_inner_group * params.a_inner_stride;
    return vec4(first + min(quad, (params.rows - 1u) / 4u));
}

// Four rows of A, four elements each from element 4k: the columns of the matrix. Elements beyond
// `inner` are zero, which silences what B holds there.
fn a_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    let row = 4u * k + vec4(0u, 1u, 2u, 3u);
    let exists = row < vec4(params.inner);
    let i = origin + min(row, vec4(params.inner - 1u)) * params.a_row_stride;
    let zero = vec4<f32>();
    return transpose(mat4x4(
        select(zero, unpack(a[i.x]), exists.x),
        select(zero, unpack(a[i.y]), exists.y),
        select(zero, unpack(a[i.z]), exists.z),
        select(zero, unpack(a[i.w]), exists.w),
    ));
}
