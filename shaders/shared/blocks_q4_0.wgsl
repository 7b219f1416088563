// Weights in blocks of 32 along a row, as GGUF's Q4_0 has them: d (q - 8), with 4 bits for a q. The
// scales of a block are f16. A matrix of blocks is one array of words: those of all q, in the order
// of the blocks and as the file has them, and then all d, two to a word.
const QUANT_WORDS = 4u; // of a block
const SCALE_BLOCKS = 2u; // blocks whose scales are in one word

// The word of its block that has the q of a quad of the row: the lower halves of its bytes, or the
// upper ones of the second half of the block.
fn quant_word(quad: u32) -> u32 { return quad % 4u; }

fn q4_0(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(15u)) - 8.0;
}

// One quad of each of four blocks, from the words that have its q and the scales. The product of 4
// and 11 bits is exact, so the bits are ggml's.
fn dequantize(words: vec4<u32>, scales: vec4<u32>, block: vec4<u32>, quad: u32) -> mat4x4<f32> {
    let half = scales >> (16u * (block % 2u));
    let d = unpack_f16((half.xz & vec2(0xffffu)) | (half.yw << vec2(16u)));
    let q = words >> vec4(quad % 8u / 4u * 4u);
    return mat4x4(q4_0(q.x) * d.x, q4_0(q.y) * d.y, q4_0(q.z) * d.z, q4_0(q.w) * d.w);
}
