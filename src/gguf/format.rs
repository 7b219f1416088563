//! How numbers are stored: one by one, or in blocks that share scales.

use std::fmt;

use crate::kernel::{BlockFormat, Precision, half_at, nibbles};

/// How the numbers of a tensor are stored.
///
/// Blocks lie along rows. d, m and the like are f16, q a whole number of as many bits as the name
/// says. What [`decode`](Self::decode) computes is what ggml's `dequantize_row_*` do, operation by
/// operation in f32.
///
/// | format | numbers in a block | bytes | a number |
/// |---|---|---|---|
/// | [`F32`](Self::F32), [`F16`](Self::F16), [`Bf16`](Self::Bf16) | 1 | 4, 2, 2 | itself |
/// | [`Q8_0`](Self::Q8_0) | 32 | 34 | d q |
/// | [`Q4_0`](Self::Q4_0) | 32 | 18 | d (q - 8) |
/// | [`Q4_1`](Self::Q4_1) | 32 | 20 | d q + m |
/// | [`Q4K`](Self::Q4K) | 256 | 144 | (d s) q - m t, s and t of 6 bits for each 32 |
/// | [`Q6K`](Self::Q6K) | 256 | 210 | (d s) (q - 32), s of 8 bits for each 16 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a smallest number.
    Q4_1,
    /// 4 bits, scales and smallest numbers of two levels.
    Q4K,
    /// 6 bits, scales of two levels.
    Q6K,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q4K,
        Self::Q6K,
    ];

    /// ggml's number for it.
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// The one with this number, if it is one of these.
    pub fn of_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == code)
    }

    /// The one of numbers one by one in this type.
    pub const fn of_precision(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::Bf16,
        }
    }

    /// The one of weights in blocks.
    pub const fn of_blocks(format: BlockFormat) -> Self {
        match format {
            BlockFormat::Q8_0 => Self::Q8_0,
            BlockFormat::Q4_0 => Self::Q4_0,
            BlockFormat::Q4_1 => Self::Q4_1,
        }
    }

    /// ggml's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Numbers in a block.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// The one that weights may have on the device, if this is such a one.
    pub const fn of_weights(self) -> Option<BlockFormat> {
        match self {
            Self::Q8_0 => Some(BlockFormat::Q8_0),
            Self::Q4_0 => Some(BlockFormat::Q4_0),
            Self::Q4_1 => Some(BlockFormat::Q4_1),
            _ => None,
        }
    }

    /// The numbers in whole blocks. What is left behind the last whole block is not looked at.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let whole = &bytes[..bytes.len() / self.block_bytes() * self.block_bytes()];
        let decode_block = match self {
            Self::F32 => return Precision::F32.decode(whole),
            Self::F16 => return Precision::F16.decode(whole),
            Self::Bf16 => return Precision::Bf16.decode(whole),
            Self::Q8_0 => return BlockFormat::Q8_0.decode(whole),
            Self::Q4_0 => return BlockFormat::Q4_0.decode(whole),
            Self::Q4_1 => return BlockFormat::Q4_1.decode(whole),
            Self::Q4K => q4_k,
            Self::Q6K => q6_k,
        };
        let blocks = whole.chunks_exact(self.block_bytes());
        let mut numbers = Vec::with_capacity(blocks.len() * self.block_elements());
        blocks.for_each(|block| decode_block(block, &mut numbers));
        numbers
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What ggml calls other formats, by their numbers.
pub(super) fn other_name(code: u32) -> Option<&'static str> {
    Some(match code {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// d, m, 8 pairs of 6 bits in 12 bytes, 256 q in 128 bytes. 64 numbers lie in 32 bytes.
fn q4_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (d, m) = (half_at(block), half_at(&block[2..]));
    let (pairs, quarters) = (&block[4..16], block[16..].chunks_exact(32));
    for (index, quarter) in quarters.enumerate() {
        let [lower, upper] = [2 * index, 2 * index + 1].map(|at| {
            let (scale, smallest) = six_bits(pairs, at);
            (d * f32::from(scale), m * f32::from(smallest))
        });
        let factors = [lower; 32].into_iter().chain([upper; 32]);
        numbers.extend(nibbles(quarter).zip(factors).map(|(q, (d, m))| d * q - m));
    }
}

/// Pair `at` of 8: four have their bits in two bytes of their own, the others have 4 bits of each in
/// a third row of bytes, and 2 in what the first four left.
fn six_bits(bytes: &[u8], at: usize) -> (u8, u8) {
    match at {
        0..4 => (bytes[at] & 63, bytes[at + 4] & 63),
        _ => (
            (bytes[at + 4] & 15) | ((bytes[at - 4] >> 6) << 4),
            (bytes[at + 4] >> 4) | ((bytes[at] >> 6) << 4),
        ),
    }
}

/// 4 bits of each of 256 q in 128 bytes, 2 of each in 64, 16 scales, d. 128 numbers lie in 64 and
/// 32 bytes: of the former, two quarters in the lower halves and two in the upper ones.
fn q6_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (lower, rest) = block.split_at(128);
    let (upper, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half_at(d);
    let number = |index: usize| {
        let (part, quarter, column) = (index / 128, index % 128 / 32, index % 32);
        let four = lower[64 * part + 32 * (quarter % 2) + column] >> (4 * (quarter / 2)) & 15;
        let two = upper[32 * part + column] >> (2 * quarter) & 3;
        let scale = f32::from(scales[index / 16].cast_signed());
        d * scale * (f32::from(four | two << 4) - 32.0)
    };
    numbers.extend((0..256).map(number));
}
