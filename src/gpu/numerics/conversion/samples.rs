//! What is converted.

use half::f16;

use super::super::random_words;

/// Pairs, words and numbers that are converted; a multiple of 4.
pub(super) const COUNT: usize = 2048;
/// Every half there is.
pub(in crate::gpu::numerics) const HALVES: usize = 1 << 16;

/// Ties, the ends of f16's range, and random numbers within and about it.
pub(super) fn pairs() -> Vec<[f32; 2]> {
    let largest = f32::from(f16::MAX);
    let delicate = [
        [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)],
        [-1.0 - 2f32.powi(-11), 2049.0],
        [largest, -largest],
        [65_519.996, -65_519.996],
        [65_520.0, -65_520.0],
        [70_000.0, -1e30],
        [f32::INFINITY, f32::NEG_INFINITY],
        [f32::NAN, f32::MAX],
        [2f32.powi(-24), -2f32.powi(-24)],
        [2f32.powi(-25), 1.0001 * 2f32.powi(-25)],
        [3.0 * 2f32.powi(-25), 5.0 * 2f32.powi(-25)],
        [2f32.powi(-14), 2f32.powi(-14) - 2f32.powi(-24)],
        [2f32.powi(-14) - 2f32.powi(-26), 1e-30],
        [f32::MIN_POSITIVE / 16.0, -f32::from_bits(1)],
        [0.0, -0.0],
    ];
    let random = |i| {
        let [a, b, ..] = random_words(100, i);
        [about_f16(a), about_f16(b)]
    };
    delicate.into_iter().chain((delicate.len()..COUNT).map(random)).collect()
}

/// Exponents from -27 to 16, any significand.
fn about_f16(word: u32) -> f32 {
    let exponent = (word >> 23 & 0xff) % 44 + 100;
    f32::from_bits(word & 0x807f_ffff | exponent << 23)
}

/// Halves of every kind, and integers about the 24 bits of f32.
pub(super) fn words() -> Vec<u32> {
    let delicate = [
        0x3c00_0000,
        0x7bff_fbff,
        0x7c00_fc00,
        0x7e00_7c01,
        0x0001_8001,
        0x03ff_0400,
        0x0200_83ff,
        16_777_216,
        16_777_217,
        16_777_219,
        33_554_434,
        33_554_438,
        u32::MAX,
        u32::MAX - 128,
        u32::MAX - 127,
    ];
    let random = |i| random_words(101, i)[0];
    delicate.into_iter().chain((delicate.len()..COUNT).map(random)).collect()
}

/// All halves in order, two to a word.
pub(in crate::gpu::numerics) fn halves() -> Vec<u32> {
    (0..HALVES as u32 / 2).map(|i| (2 * i) | (2 * i + 1) << 16).collect()
}
