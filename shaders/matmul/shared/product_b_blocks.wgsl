// B in blocks along its stored rows, a whole matrix: another fragment has their format.
alias StoredB = u32;

// Of each of four stored rows of B, of which there are so many, the same quad.
fn b_quads(row: vec4<u32>, quad: u32, rows: u32) -> mat4x4<f32> {
    let row_blocks = params.b_row_stride / 8u;
    let block = row * row_blocks + quad / 8u;
    let q = QUANT_WORDS * block + quant_word(quad);
    let scale = QUANT_WORDS * rows * row_blocks + block / SCALE_BLOCKS;
    let words = vec4(b[q.x], b[q.y], b[q.z], b[q.w]);
    let scales = vec4(b[scale.x], b[scale.y], b[scale.z], b[scale.w]);
    return dequantize(words, scales, block, quad);
}
