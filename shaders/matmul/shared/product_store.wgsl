// Hands an invocation's 2 x 2 blocks to the kernel's `store(at, quad, value)`, row by row: what
// exists of them, scaled by alpha, with zeros in the padding. The blocks lie `step` blocks apart.
// A loop, so that the kernel's text is compiled once and not sixteen times.
fn store_blocks(
    first: u32,
    row_quad: u32,
    col_quad: u32,
    step: u32,
    c00: mat4x4<f32>,
    c01: mat4x4<f32>,
    c10: mat4x4<f32>,
    c11: mat4x4<f32>,
) {
    var sums = array<vec4<f32>, 16>(
        c00[0], c00[1], c00[2], c00[3],
        c01[0], c01[1], c01[2], c01[3],
        c10[0], c10[1], c10[2], c10[3],
        c11[0], c11[1], c11[2], c11[3],
    );
    for (var i = 0u; i < 16u; i++) {
        let row = 4u * (row_quad + i / 8u * step) + i % 4u;
        let quad = col_quad + i / 4u % 2u * step;
        if row < params.rows && 4u * quad < params.cols {
            let exists = 4u * quad + vec4(0u, 1u, 2u, 3u) < vec4(params.cols);
            let value = select(vec4<f32>(), params.alpha * sums[i], exists);
            store(first + row * params.c_row_stride + quad, quad, value);
        }
    }
}
