// B stored as (cols, inner). Columns beyond the last repeat it: their products are not stored.
alias StoredB = Quad;
const B_ALONG_INNER = true; // whether a stored row is one of `inner`

fn b_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    let first = params.b_offset + outer * params.b_outer_stride
        + inner / params.b_inner_group * params.b_inner_stride;
    let col = min(4u * quad + vec4(0u, 1u, 2u, 3u), vec4(params.cols - 1u));
    return first + col * params.b_row_stride;
}

// Four rows of B from row 4k, one quad each.
fn b_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    let i = origin + k;
    return transpose(mat4x4(unpack(b[i.x]), unpack(b[i.y]), unpack(b[i.z]), unpack(b[i.w])));
}
