// Weights in blocks of 32 along a row, as GGUF's Q4_1 has them: d q + m, with 4 bits for a q. The
// scales of a block are f16. A matrix of blocks is one array of words: those of all q, in the order
// of the blocks and as the file has them, and then a word of d and m for each.
const QUANT_WORDS = 4u; // of a block
const SCALE_BLOCKS = 1u; // blocks whose scales are in one word

// The word of its block that has the q of a quad of the row: the lower halves of its bytes, or the
// upper ones of the second half of the block.
fn quant_word(quad: u32) -> u32 { return quad % 4u; }

fn q4_1(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(15u));
}

// One quad of each of four blocks, from the words that have its q and the scales. The product of 4
// and 11 bits is exact and only the sum rounds, fused or not, so the bits are ggml's.
fn dequantize(words: vec4<u32>, scales: vec4<u32>, block: vec4<u32>, quad: u32) -> mat4x4<f32> {
    let first = unpack_f16(scales.xy); // d and m of two blocks
    let last = unpack_f16(scales.zw);
    let q = words >> vec4(quad % 8u / 4u * 4u);
    return mat4x4(
        q4_1(q.x) * first.x + first.y,
        q4_1(q.y) * first.z + first.w,
        q4_1(q.z) * last.x + last.y,
        q4_1(q.w) * last.z + last.w,
    );
}
