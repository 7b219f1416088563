// B stored as (inner, cols), in blocks. Quads beyond the last repeat it: their products are not
// stored.
const B_ALONG_INNER = false; // whether a stored row is one of `inner`

fn b_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    return vec4(min(quad, (params.cols - 1u) / 4u));
}

// Four rows of B from row 4k, one quad each. Rows beyond `inner` repeat the last one: A is zero
// there.
fn b_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    let row = min(4u * k + vec4(0u, 1u, 2u, 3u), vec4(params.inner - 1u));
    return b_quads(row, origin.x, params.inner);
}
