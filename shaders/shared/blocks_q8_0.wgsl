// Weights in blocks of 32 along a row, as GGUF's Q8_0 has them: d q, with 8 bits for a q. The
// scales of a block are f16. A matrix of blocks is one array of words: those of all q, in the order
// of the blocks and as the file has them, and then all d, two to a word.
const QUANT_WORDS = 8u; // of a block
const SCALE_BLOCKS = 2u; // blocks whose scales are in one word

// The word of its block that has the q of a quad of the row.
fn quant_word(quad: u32) -> u32 { return quad % 8u; }

fn q8_0(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4(word) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u));
}

// One quad of each of four blocks, from the words that have its q and the scales. The product of 8
// and 11 bits is exact, so the bits are ggml's.
fn dequantize(words: vec4<u32>, scales: vec4<u32>, block: vec4<u32>, quad: u32) -> mat4x4<f32> {
    let half = scales >> (16u * (block % 2u));
    let d = unpack_f16((half.xz & vec2(0xffffu)) | (half.yw << vec2(16u)));
    return mat4x4(
        q8_0(words.x) * d.x,
        q8_0(words.y) * d.y,
        q8_0(words.z) * d.z,
        q8_0(words.w) * d.w,
    );
}
