// Hands a quad of C to the kernel's `store(at, quad, value)` if it exists: scaled by alpha, with zeros
// in the padding. Called in a loop, so that the kernel's text is compiled once and not often.
fn store_row(first: u32, row: u32, quad: u32, sum: vec4<f32>) {
    if row < params.rows && 4u * quad < params.cols {
        let exists = 4u * quad + vec4(0u, 1u, 2u, 3u) < vec4(params.cols);
        let value = select(vec4<f32>(), params.alpha * sum, exists);
        store(first + row * params.c_row_stride + quad, quad, value);
    }
}
