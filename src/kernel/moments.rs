//! How optimizers hold their moments.

use std::fmt;

use super::Precision;

/// How an optimizer holds its moments: [`AdamW`], [`Adam`] and [`Lion`] have them in fewer bits with
/// [`CompactMoments`]. Either is rounded at random, with the odds that make it right on average, since
/// a mean that moves by a thousandth in a step would stand still in so few bits.
///
/// In checkpoints moments are f32 whatever holds them, so a run may go on with others.
///
/// [`AdamW`]: crate::train::AdamW
/// [`Adam`]: crate::train::Adam
/// [`Lion`]: crate::train::Lion
/// [`CompactMoments`]: crate::train::optimizers::CompactMoments
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MomentStorage {
    /// f32: 4 bytes.
    #[default]
    F32,
    /// bf16: 2 bytes.
    Bf16,
    /// Codes of 8 bits, in blocks of 256 elements of a tensor with an f32 scale, the largest magnitude
    /// of the block: 1.02 bytes. Codes are dynamic (Dettmers et al. 2022, arXiv 2110.02861): decades,
    /// with a linear fraction that has fewer bits in the smaller ones. Linear codes would round the
    /// squares of all but the largest gradients of a block to zero. Here no square is rounded to zero
    /// that is not, as updates are divided by its root.
    Blocks8,
}

/// Quads of a block.
const BLOCK_QUADS: usize = 64;
/// Blocks of a chunk.
const BLOCKS: u32 = crate::kernels::CHUNK_QUADS / BLOCK_QUADS as u32;
/// The smallest scale, so that decoded numbers are normal.
const SMALLEST_SCALE: f32 = 1e-30;

impl MomentStorage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Blocks8];

    /// Bytes of four elements, scales apart.
    pub const fn quad_bytes(self) -> u64 {
        match self {
            Self::F32 => 16,
            Self::Bf16 => 8,
            Self::Blocks8 => 4,
        }
    }

    /// Bytes of the scales in front of a buffer whose tensors lie in so many
    /// [chunks](crate::kernels::chunks).
    pub(crate) const fn scale_bytes(self, chunks: u32) -> u64 {
        match self {
            Self::F32 | Self::Bf16 => 0,
            Self::Blocks8 => 4 * chunks as u64 * BLOCKS as u64,
        }
    }

    /// Numbers as they are stored, and in front of them the scales of their blocks. `values` are
    /// whole quads from the beginning of a chunk on; squares have no sign.
    pub(crate) fn encode(self, values: &[f32], are_squares: bool) -> [Vec<u8>; 2] {
        match self {
            Self::F32 => [Vec::new(), bytemuck::cast_slice(values).to_vec()],
            Self::Bf16 => [Vec::new(), Precision::Bf16.encode(values)],
            Self::Blocks8 => {
                let (mut scales, mut codes) = (Vec::new(), Vec::with_capacity(values.len()));
                for block in values.chunks(4 * BLOCK_QUADS) {
                    let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                    let scale = largest.max(SMALLEST_SCALE);
                    scales.extend(scale.to_le_bytes());
                    codes.extend(block.iter().map(|&x| encode(x, scale, are_squares)));
                }
                [scales, codes]
            }
        }
    }

    /// What numbers stand for that are stored so.
    pub(crate) fn decode(self, scales: &[u8], codes: &[u8], are_squares: bool) -> Vec<f32> {
        match self {
            Self::F32 => bytemuck::pod_collect_to_vec(codes),
            Self::Bf16 => Precision::Bf16.decode(codes),
            Self::Blocks8 => {
                let scales: Vec<f32> = bytemuck::pod_collect_to_vec(scales);
                let blocks = codes.chunks(4 * BLOCK_QUADS).zip(scales);
                let decode = |(block, scale): (&[u8], f32)| -> Vec<f32> {
                    block.iter().map(|&code| decode(code, scale, are_squares)).collect()
                };
                blocks.flat_map(decode).collect()
            }
        }
    }

    /// Where the scales of a tensor lie in front of a buffer, in bytes, and how many those of so many
    /// quads are.
    pub(crate) fn scales_of(self, first_chunk: u32, quads: usize) -> (u64, usize) {
        match self {
            Self::F32 | Self::Bf16 => (0, 0),
            Self::Blocks8 => (self.scale_bytes(first_chunk), 4 * quads.div_ceil(BLOCK_QUADS)),
        }
    }
}

/// The value of a code n of so many bits in [0, 1].
fn value(n: u32, bits: u32) -> f64 {
    if n <= 1 {
        return 0.0;
    }
    let decade = n.ilog2();
    if decade == bits {
        return 1.0;
    }
    let parts = f64::from(1u32 << decade);
    let fraction = (f64::from(n) - parts + 0.5) / parts;
    (0.1 + 0.9 * fraction) * 10f64.powi(decade as i32 + 1 - bits as i32)
}

const fn bits(is_square: bool) -> u32 {
    if is_square { 8 } else { 7 }
}

fn decode(code: u8, scale: f32, is_square: bool) -> f32 {
    let bits = bits(is_square);
    let magnitude = (u32::from(code) & ((1 << bits) - 1)) + 1;
    let value = (value(magnitude, bits) * f64::from(scale)) as f32;
    if !is_square && code > 127 { -value } else { value }
}

/// The nearest code; of a square that is not zero, none that is.
fn encode(x: f32, scale: f32, is_square: bool) -> u8 {
    let bits = bits(is_square);
    let wanted = f64::from(x.abs()) / f64::from(scale);
    // Values rise with their codes.
    let (mut low, mut high) = (1, 1u32 << bits);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(middle, bits) <= wanted { low = middle } else { high = middle }
    }
    let is_nearer = wanted - value(low, bits) > value(high, bits) - wanted;
    let code = (if is_nearer { high } else { low } - 1) as u8;
    match is_square {
        true => code.max(u8::from(x > 0.0)),
        // There is one zero.
        false => code | if x < 0.0 && code > 0 { 128 } else { 0 },
    }
}

impl fmt::Display for MomentStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Blocks8 => "8 bits in blocks of 256",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map of bitsandbytes for squares (`create_dynamic_map(signed=False)`): means of
    /// neighbours among 2^k + 1 numbers from 0.1 to 1, for seven decades, 0 and 1.
    #[test]
    fn codes_of_squares_are_the_dynamic_map() {
        let mut expected = vec![0.0];
        for (power, parts) in (-6..=0).zip([2u32, 4, 8, 16, 32, 64, 128]) {
            let bound = |i: u32| 0.1 + 0.9 * f64::from(i) / f64::from(parts);
            expected
                .extend((0..parts).map(|i| (bound(i) + bound(i + 1)) / 2.0 * 10f64.powi(power)));
        }
        expected.push(1.0);
        assert_eq!(expected.len(), 256);
        for (n, expected) in (1..).zip(expected) {
            assert!((value(n, 8) - expected).abs() <= 1e-12 * expected, "{n}");
        }
        assert!((1..128).all(|n| value(n, 7) < value(n + 1, 7)) && value(128, 7) == 1.0);
    }

    #[test]
    fn the_nearest_code_is_taken_and_squares_do_not_vanish() {
        for is_square in [false, true] {
            let bits = bits(is_square);
            let values: Vec<_> = (1..=1 << bits).map(|n| value(n, bits)).collect();
            for i in 0..4000 {
                let x = 10f64.powf(-8.0 * f64::from(i) / 4000.0) as f32;
                let found = f64::from(decode(encode(3.0 * x, 3.0, is_square), 3.0, is_square));
                let error = |&v: &f64| (v - f64::from(x)).abs();
                let least = values.iter().map(error).fold(f64::INFINITY, f64::min);
                let bound = least.max(if is_square { values[1] } else { 0.0 });
                assert!((found / 3.0 - f64::from(x)).abs() <= bound + 1e-7 * f64::from(x), "{x}");
                assert!(found > 0.0 || !is_square, "{x}");
                if !is_square {
                    let mirrored = decode(encode(-3.0 * x, 3.0, false), 3.0, false);
                    assert_eq!(f64::from(mirrored), -found);
                }
            }
        }
        assert_eq!(encode(0.0, 1.0, true), 0);
    }

    /// A checkpoint gives back the bytes that it was made of.
    #[test]
    fn what_is_decoded_has_the_same_codes() {
        for storage in MomentStorage::ALL {
            for are_squares in [false, true] {
                for size in [1.0, 3e-20, 1e-33, 1e36] {
                    let values: Vec<_> = (0..1300)
                        .map(|i| {
                            let spread = 10f64.powf(-f64::from(i * 37 % 1300) / 150.0);
                            let sign = if are_squares || i % 3 > 0 { 1.0 } else { -1.0 };
                            (sign * size * spread) as f32
                        })
                        .collect();
                    let stored = storage.encode(&values, are_squares);
                    let decoded = storage.decode(&stored[0], &stored[1], are_squares);
                    assert_eq!(decoded.len(), values.len());
                    assert_eq!(storage.encode(&decoded, are_squares), stored, "{storage} {size}");
                }
            }
        }
        let every: Vec<u8> = (0..=255).collect();
        for are_squares in [false, true] {
            let scale = 0.7f32.to_le_bytes();
            let decoded = MomentStorage::Blocks8.decode(&scale, &every, are_squares);
            let [scales, codes] = MomentStorage::Blocks8.encode(&decoded, are_squares);
            assert_eq!(scales, scale);
            // But for the second zero of signed ones, which none has.
            let mut expected = every.clone();
            if !are_squares {
                expected[128] = 0;
            }
            assert_eq!(codes, expected);
        }
    }

    #[test]
    fn blocks_take_a_byte_and_a_sixty_fourth() {
        let [scales, codes] = MomentStorage::Blocks8.encode(&[1.0; 2048], true);
        assert_eq!((scales.len(), codes.len()), (32, 2048));
        assert_eq!(MomentStorage::Blocks8.scale_bytes(3), 96);
        assert_eq!(MomentStorage::Blocks8.scales_of(2, 65), (64, 8));
    }
}
