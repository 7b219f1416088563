//! The random family: exact in the integers, f64 from there on.

use std::f64::consts::PI;

use super::elementwise::{erf, erfc};
use crate::step::StepInput;

/// Last key word of dropout's streams.
const DOMAIN_DROPOUT: u32 = 1;
/// Last key word of the initialisers' streams.
const DOMAIN_INITIALIZE: u32 = 2;

/// Threefry-4x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// 2011; Random123): 128 bits that depend on all of the counter and the key.
pub fn threefry4x32(counter: [u32; 4], key: [u32; 4]) -> [u32; 4] {
    const ROTATIONS: [[u32; 2]; 8] =
        [[10, 26], [11, 21], [13, 27], [23, 5], [6, 20], [17, 11], [25, 10], [18, 20]];
    let parity = key.iter().fold(0x1bd1_1bda, |parity, word| parity ^ word);
    let keys = [key[0], key[1], key[2], key[3], parity];
    let mut x = [0u32; 4];
    for i in 0..4 {
        x[i] = counter[i].wrapping_add(keys[i]);
    }
    for round in 0..20 {
        let pairs = if round % 2 == 0 { [[0, 1], [2, 3]] } else { [[0, 3], [2, 1]] };
        for ([a, b], rotation) in pairs.into_iter().zip(ROTATIONS[round % 8]) {
            x[a] = x[a].wrapping_add(x[b]);
            x[b] = x[b].rotate_left(rotation) ^ x[a];
        }
        if round % 4 == 3 {
            let injection = round / 4 + 1;
            for i in 0..4 {
                x[i] = x[i].wrapping_add(keys[(injection + i) % 5]);
            }
            x[3] = x[3].wrapping_add(injection as u32);
        }
    }
    x
}

/// Odd multiples of 2^-24 in (0, 1).
pub fn uniform_unit(word: u32) -> f64 {
    f64::from((word >> 8) | 1) * 2f64.powi(-24)
}

/// The standard normal with distribution function u at the uniform number u of this word.
pub fn normal(word: u32) -> f64 {
    normal_quantile(uniform_unit(word))
}

/// Inverse of the standard normal's distribution function, by Newton's method in the tail that
/// keeps its digits; it converges from 0 as that function is concave above 0.
pub fn normal_quantile(u: f64) -> f64 {
    let tail = u.min(1.0 - u);
    let mut z = 0.0f64;
    for _ in 0..200 {
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        let upper =
            if z < 0.5 { 0.5 - 0.5 * erf(z / 2f64.sqrt()) } else { 0.5 * erfc(z / 2f64.sqrt()) };
        let step = (upper - tail) / density;
        z += step;
        if step.abs() < 1e-15 * z.abs() {
            break;
        }
    }
    if u < 0.5 { -z } else { z }
}

/// y = x / (1 - p) with probability 1 - p, else 0. Quad q of the padded rows of x (rows, cols)
/// draws the words of counter (q, step, microbatch, stream), the microbatch among those of all ranks.
pub fn dropout(
    probability: f64,
    stream: u32,
    input: &StepInput,
    cols: usize,
    x: &[f64],
) -> Vec<f64> {
    let key = [input.seed, 0, 0, DOMAIN_DROPOUT];
    let microbatch = input.first_microbatch + input.microbatch;
    let mut y = Vec::with_capacity(x.len());
    for (i, x) in x.iter().enumerate() {
        let (r, c) = (i / cols, i % cols);
        let quad = (r * cols.div_ceil(4) + c / 4) as u32;
        let word = threefry4x32([quad, input.step, microbatch, stream], key)[c % 4];
        let keep = f64::from(word) >= probability * 2f64.powi(32);
        y.push(if keep { x / (1.0 - probability) } else { 0.0 });
    }
    y
}

/// w = value.
pub fn fill(count: usize, value: f64) -> Vec<f64> {
    vec![value; count]
}

/// w = low + (high - low) u.
pub fn initialize_uniform(count: usize, seed: u32, stream: u32, [low, high]: [f64; 2]) -> Vec<f64> {
    let words = initialize_words(count, seed, stream);
    words.map(|word| low + (high - low) * uniform_unit(word)).collect()
}

/// w = mean + deviation z.
pub fn initialize_normal(
    count: usize,
    seed: u32,
    stream: u32,
    [mean, deviation]: [f64; 2],
) -> Vec<f64> {
    initialize_words(count, seed, stream).map(|word| mean + deviation * normal(word)).collect()
}

/// The word of each element: word e % 4 of counter e / 4.
fn initialize_words(count: usize, seed: u32, stream: u32) -> impl Iterator<Item = u32> {
    let key = [seed, stream, 0, DOMAIN_INITIALIZE];
    (0..count as u32).map(move |e| threefry4x32([e / 4, 0, 0, 0], key)[e as usize % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of Random123 (kat_vectors, threefry4x32 20).
    #[test]
    fn threefry_has_the_known_answers() {
        let ones = [u32::MAX; 4];
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let more_pi = [0xa409_3822, 0x299f_31d0, 0x082e_fa98, 0xec4e_6c89];
        for (counter, key, expected) in [
            ([0; 4], [0; 4], [0x9c6c_a96a, 0xe17e_ae66, 0xfc10_ecd4, 0x5256_a7d8]),
            (ones, ones, [0x2a88_1696, 0x5701_2287, 0xf6c7_446e, 0xa16a_6732]),
            (pi, more_pi, [0x59cd_1dbb, 0xb887_9579, 0x86b5_d00c, 0xac8b_6d84]),
        ] {
            assert_eq!(threefry4x32(counter, key), expected);
        }
    }

    #[test]
    fn normal_quantile_has_known_values() {
        for (u, z) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.975, 1.959_963_984_540_054),
            (0.001, -3.090_232_306_167_813_5),
            (1e-6, -4.753_424_308_822_899),
        ] {
            assert!((normal_quantile(u) - z).abs() < 1e-12, "{u}: {}", normal_quantile(u));
        }
    }
}
