// B stored as (cols, inner), in blocks. Columns beyond the last repeat it: their products are not
// stored.
const B_ALONG_INNER = true; // whether a stored row is one of `inner`

fn b_origin(outer: u32, inner: u32, quad: u32) -> vec4<u32> {
    return min(4u * quad + vec4(0u, 1u, 2u, 3u), vec4(params.cols - 1u));
}

// Four rows of B from row 4k, one quad each.
fn b_block(origin: vec4<u32>, k: u32) -> mat4x4<f32> {
    return transpose(b_quads(origin, k, params.cols));
}
