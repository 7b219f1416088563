// A quad of a row of the weight in blocks, whose format another fragment has.
alias StoredWeight = u32;

fn weight_quad(row: u32, quad: u32) -> vec4<f32> {
    let row_blocks = row_quads(params.cols) / 8u;
    let block = row * row_blocks + quad / 8u;
    let words = w[QUANT_WORDS * block + quant_word(quad)];
    let scale = w[QUANT_WORDS * params.w_rows * row_blocks + block / SCALE_BLOCKS];
    return dequantize(vec4(words), vec4(scale), vec4(block), quad)[0];
}
