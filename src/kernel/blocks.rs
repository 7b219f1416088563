//! Weights in blocks: 32 along a row that share a scale, with 4 or 8 bits each.
//!
//! Blocks are those of GGUF. A [`BlockFormat`] makes them of numbers and numbers of them, operation
//! by operation as ggml does, and takes them apart for the device: GGUF's are 34, 18 and 20 bytes
//! long, and kernels read words.

use std::fmt;

use half::f16;

use super::fragment::Fragment;
use super::shared;

/// How the weights of a frozen matrix are stored in blocks of 32 along its rows.
///
/// d and m are f16, q whole numbers; [`decode`](Self::decode) and kernels compute the same f32,
/// which is ggml's.
///
/// | format | bytes of a block | bits of a weight | weight |
/// |---|---|---|---|
/// | [`Q8_0`](Self::Q8_0) | 34 | 8.5 | d q, q from -128 to 127 |
/// | [`Q4_0`](Self::Q4_0) | 18 | 4.5 | d (q - 8), q from 0 to 15 |
/// | [`Q4_1`](Self::Q4_1) | 20 | 5 | d q + m, q from 0 to 15 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockFormat {
    /// 8 bits and a scale: at most half a 127th of the largest magnitude of a block is lost.
    Q8_0,
    /// 4 bits and a scale: the number of largest magnitude is kept well, with its sign.
    Q4_0,
    /// 4 bits, a scale and a smallest number: for weights that do not lie about zero.
    Q4_1,
}

impl BlockFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// Weights in a block.
    pub const ELEMENTS: usize = 32;

    /// ggml's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        self.scale_bytes() + self.quant_bytes()
    }

    /// Bytes of d, and of m where there is one: the first of a block.
    const fn scale_bytes(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 2,
            Self::Q4_1 => 4,
        }
    }

    /// Bytes of all q of a block.
    const fn quant_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 32,
            Self::Q4_0 | Self::Q4_1 => 16,
        }
    }

    /// The largest magnitude that certainly has a block with finite scales.
    pub fn largest(self) -> f32 {
        let largest = f16::MAX.to_f32();
        match self {
            Self::Q8_0 => 127.0 * largest,
            Self::Q4_0 => 8.0 * largest,
            Self::Q4_1 => largest,
        }
    }

    /// The numbers in whole blocks, as ggml's `dequantize_row_*` compute them. What is left behind
    /// the last whole block is not looked at.
    pub fn decode(self, blocks: &[u8]) -> Vec<f32> {
        let blocks = blocks.chunks_exact(self.bytes());
        let mut numbers = Vec::with_capacity(Self::ELEMENTS * blocks.len());
        for block in blocks {
            let (scales, q) = block.split_at(self.scale_bytes());
            let d = half_at(scales);
            match self {
                Self::Q8_0 => numbers.extend(q.iter().map(|&q| f32::from(q.cast_signed()) * d)),
                Self::Q4_0 => numbers.extend(nibbles(q).map(|q| (q - 8.0) * d)),
                Self::Q4_1 => {
                    let m = half_at(&scales[2..]);
                    numbers.extend(nibbles(q).map(|q| q * d + m));
                }
            }
        }
        numbers
    }

    /// Blocks of finite numbers, as ggml's `quantize_row_*_ref` make them. A scale that f16 does not
    /// hold becomes Inf; see [`nonfinite_block`](Self::nonfinite_block).
    ///
    /// # Panics
    /// Unless there are 32 numbers for each block.
    pub fn encode(self, numbers: &[f32]) -> Vec<u8> {
        assert!(numbers.len().is_multiple_of(Self::ELEMENTS), "{} numbers", numbers.len());
        let blocks = numbers.chunks_exact(Self::ELEMENTS);
        let mut bytes = Vec::with_capacity(self.bytes() * blocks.len());
        for block in blocks {
            match self {
                Self::Q8_0 => q8_0(block, &mut bytes),
                Self::Q4_0 => q4_0(block, &mut bytes),
                Self::Q4_1 => q4_1(block, &mut bytes),
            }
        }
        bytes
    }

    /// The first block whose d or m is NaN or Inf.
    pub fn nonfinite_block(self, blocks: &[u8]) -> Option<usize> {
        let is_finite = |half: &[u8]| half_at(half).is_finite();
        blocks
            .chunks_exact(self.bytes())
            .position(|block| !block[..self.scale_bytes()].chunks_exact(2).all(is_finite))
    }

    /// Bytes on the device of a matrix of so many blocks: the words of all q, in the order of the
    /// blocks and as those have them, and then all scales.
    pub fn device_bytes(self, blocks: usize) -> u64 {
        let [quants, scales] = [self.quants_before(blocks), self.scales_before(blocks)];
        quants + scales.next_multiple_of(4)
    }

    /// Bytes of the q of so many blocks.
    pub(crate) fn quants_before(self, blocks: usize) -> u64 {
        (blocks * self.quant_bytes()) as u64
    }

    /// Bytes of the scales of so many blocks.
    pub(crate) fn scales_before(self, blocks: usize) -> u64 {
        (blocks * self.scale_bytes()) as u64
    }

    /// What the device has of blocks: their q, and their scales with zeros to a whole word.
    pub fn split(self, blocks: &[u8]) -> [Vec<u8>; 2] {
        let (mut quants, mut scales) = (Vec::new(), Vec::new());
        for block in blocks.chunks_exact(self.bytes()) {
            let (of_block, q) = block.split_at(self.scale_bytes());
            scales.extend_from_slice(of_block);
            quants.extend_from_slice(q);
        }
        scales.resize(scales.len().next_multiple_of(4), 0);
        [quants, scales]
    }

    /// The blocks again that were [`split`](Self::split).
    pub fn join(self, quants: &[u8], scales: &[u8]) -> Vec<u8> {
        let scales = scales.chunks_exact(self.scale_bytes());
        let blocks = scales.zip(quants.chunks_exact(self.quant_bytes()));
        blocks.flat_map(|(scales, q)| [scales, q].concat()).collect()
    }

    /// `dequantize`, and where what it reads lies.
    pub(super) const fn fragment(self) -> Fragment {
        match self {
            Self::Q8_0 => shared::BLOCKS_Q8_0,
            Self::Q4_0 => shared::BLOCKS_Q4_0,
            Self::Q4_1 => shared::BLOCKS_Q4_1,
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The f16 that bytes begin with.
pub(crate) fn half_at(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The lower halves of these bytes, then the upper ones.
pub(crate) fn nibbles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let lower = bytes.iter().map(|byte| byte & 15);
    let upper = bytes.iter().map(|byte| byte >> 4);
    lower.chain(upper).map(f32::from)
}

fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(block: &[f32], bytes: &mut Vec<u8>) {
    let d = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
    let id = inverse(d);
    bytes.extend(half_bytes(d));
    bytes.extend(block.iter().map(|x| ((x * id).round() as i8).cast_unsigned()));
}

fn q4_0(block: &[f32], bytes: &mut Vec<u8>) {
    let larger = |most: f32, &x: &f32| if most.abs() < x.abs() { x } else { most };
    let d = block.iter().fold(0.0, larger) / -8.0;
    let id = inverse(d);
    bytes.extend(half_bytes(d));
    push_nibbles(block, |x| x * id + 8.5, bytes);
}

fn q4_1(block: &[f32], bytes: &mut Vec<u8>) {
    // Of zeros of both signs the first.
    let smaller = |least: f32, &x: &f32| if x < least { x } else { least };
    let larger = |most: f32, &x: &f32| if x > most { x } else { most };
    let smallest = block.iter().fold(f32::INFINITY, smaller);
    let largest = block.iter().fold(f32::NEG_INFINITY, larger);
    let d = (largest - smallest) / 15.0;
    let id = inverse(d);
    bytes.extend([half_bytes(d), half_bytes(smallest)].concat());
    push_nibbles(block, |x| (x - smallest) * id + 0.5, bytes);
}

/// q = min(15, floor(shifted)) of each: the first half of them in the lower halves of the bytes.
fn push_nibbles(block: &[f32], shifted: impl Fn(f32) -> f32, bytes: &mut Vec<u8>) {
    let (lower, upper) = block.split_at(BlockFormat::ELEMENTS / 2);
    let q = |&x: &f32| (shifted(x) as u8).min(15);
    bytes.extend(lower.iter().zip(upper).map(|(low, high)| q(low) | q(high) << 4));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What a format loses is at most half a step, and what f16 does of all steps together, which
        /// are twice the largest at most, and of m.
        #[test]
        fn numbers_come_back_within_half_a_step(
            numbers in prop::collection::vec(-4.0f32..4.0, 64), shift in -2.0f32..2.0
        ) {
            let numbers: Vec<_> = numbers.into_iter().map(|x| x + shift).collect();
            for format in BlockFormat::ALL {
                let decoded = format.decode(&format.encode(&numbers));
                for (block, decoded) in numbers.chunks(32).zip(decoded.chunks(32)) {
                    let largest = block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                    let low = block.iter().copied().fold(f32::INFINITY, f32::min);
                    let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    // Of Q4_0 the other end has one step less than the largest.
                    let step = match format {
                        BlockFormat::Q8_0 => largest / 127.0,
                        BlockFormat::Q4_0 => 2.0 * largest / 8.0,
                        BlockFormat::Q4_1 => (high - low) / 15.0,
                    };
                    let bound = 0.5 * step + 3.0 * largest * 2f32.powi(-11) + 1e-6;
                    for (x, y) in block.iter().zip(decoded) {
                        prop_assert!((x - y).abs() <= bound, "{format}: {x} {y}");
                    }
                }
            }
        }

        #[test]
        fn blocks_come_together_again(bytes in prop::collection::vec(any::<u8>(), 340)) {
            for format in BlockFormat::ALL {
                let blocks = &bytes[..bytes.len() / format.bytes() * format.bytes()];
                let [quants, scales] = format.split(blocks);
                prop_assert_eq!(
                    (quants.len() + scales.len()) as u64,
                    format.device_bytes(blocks.len() / format.bytes())
                );
                prop_assert_eq!(format.join(&quants, &scales), blocks);
            }
        }
    }

    #[test]
    fn the_largest_has_finite_scales_and_what_is_beyond_has_not() {
        for format in BlockFormat::ALL {
            for sign in [-1.0, 1.0] {
                let block = |x: f32| format.encode(&[vec![x * sign], vec![0.0; 31]].concat());
                assert_eq!(format.nonfinite_block(&block(format.largest())), None, "{format}");
                let beyond = format.encode(&[1.01 * sign * format.largest(); 32]);
                let both = [block(1.0), beyond].concat();
                assert_eq!(format.nonfinite_block(&both), Some(1), "{format}");
            }
        }
    }

    #[test]
    fn numbers_without_a_scale_in_f16_are_zero() {
        for tiny in [0.0, -0.0, 1e-45, -1e-40, 1e-30] {
            for format in BlockFormat::ALL {
                let decoded = format.decode(&format.encode(&[tiny; 32]));
                assert!(decoded.iter().all(|&x| x == 0.0), "{format}: {tiny} {decoded:?}");
            }
        }
    }
}
