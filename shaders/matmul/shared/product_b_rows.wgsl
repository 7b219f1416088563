// B stored as (inner, cols). Quads beyond the last repeat it: their products are not stored.
alias StoredB = Quad;
const B_ALONG_INNER = false; // whether a stored row is one of `inner`

fn b_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    let first = params.b_offset + outer * params.b_outer_stride
        + inner / params.b_inner_group * params.b_inner_stride;
    return vec4(first + min(quad, (params.cols - 1u) / 4u));
}

// Four rows of B from row 4k, one quad each. Rows beyond `inner` repeat the last one: A is zero
// there.
fn b_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    let row = min(4u * k + vec4(0u, 1u, 2u, 3u), vec4(params.inner - 1u));
    let i = origin + row * params.b_row_stride;
    return mat4x4(unpack(b[i.x]), unpack(b[i.y]), unpack(b[i.z]), unpack(b[i.w]));
}
