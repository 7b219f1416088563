// A quad of a row of the table in blocks, whose format another fragment has.
alias StoredTable = u32;

fn table_quad(row: u32, quad: u32) -> Quad {
    let block = row * (params.quads / 8u) + quad / 8u;
    let scales = QUANT_WORDS * params.table_rows * (params.quads / 8u);
    let words = table[QUANT_WORDS * block + quant_word(quad)];
    let scale = table[scales + block / SCALE_BLOCKS];
    return pack(dequantize(vec4(words), vec4(scale), vec4(block), quad)[0]);
}
