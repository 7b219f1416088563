//! How what a rank has learned goes over the network, and what of it is kept for the next round.

use std::fmt;

/// Elements that have a scale together in [`DifferenceEncoding::Int8`].
pub(super) const BLOCK: usize = 256;

/// How the differences of ranks go over the network. What rounding takes from a difference is added
/// to the rank's next one (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv
/// 1901.09847), so that nothing is lost over several rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DifferenceEncoding {
    /// The weights themselves, 4 bytes for each: exact, and nothing to be kept.
    F32,
    /// IEEE binary16, 2 bytes: 2^-11 of a difference is kept for the next round at most, or 2^-25
    /// where that is more. A difference above 65,504 has no number in it, and leaves its rank out.
    #[default]
    F16,
    /// A byte, and an f32 for each block of 256: 1.02 bytes. Differences are whole multiples of 1/127
    /// of the largest magnitude of their block, so that 1/254 of that is kept at most.
    Int8,
}

impl DifferenceEncoding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Int8];

    /// Bytes of so many elements of one piece.
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => 4 * elements,
            Self::F16 => 2 * elements,
            Self::Int8 => elements + 4 * elements.div_ceil(BLOCK),
        }
    }

    /// Whether what rounding takes is kept.
    pub(super) const fn has_feedback(self) -> bool {
        !matches!(self, Self::F32)
    }

    /// Whether a number of this encoding is near this one.
    pub(super) fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 | Self::Int8 => value.is_finite(),
            Self::F16 => half::f16::from_f32(value).is_finite(),
        }
    }

    /// The bytes of elements that it [holds](Self::holds); of blocks the scales first.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => {
                values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
            }
            Self::Int8 => {
                let scales: Vec<_> = values.chunks(BLOCK).map(largest).collect();
                let codes = values.chunks(BLOCK).zip(&scales);
                let codes =
                    codes.flat_map(|(block, &scale)| block.iter().map(move |&x| code(x, scale)));
                let mut bytes = Vec::with_capacity(self.bytes(values.len()));
                bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                bytes.extend(codes.map(|code| code as u8));
                bytes
            }
        }
    }

    /// What bytes of so many elements stand for.
    pub(super) fn decode(self, bytes: &[u8], elements: usize) -> Vec<f32> {
        let singles = |bytes: &[u8]| -> Vec<f32> {
            let words = bytes.chunks_exact(4);
            words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        match self {
            Self::F32 => singles(bytes),
            Self::F16 => {
                let pairs = bytes.chunks_exact(2);
                pairs.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Self::Int8 => {
                let (scales, codes) = bytes.split_at(bytes.len() - elements);
                let blocks = codes.chunks(BLOCK).zip(singles(scales));
                let value = |code: u8, scale: f32| f64::from(code as i8) * f64::from(scale) / 127.0;
                blocks
                    .flat_map(|(block, scale)| block.iter().map(move |&c| value(c, scale) as f32))
                    .collect()
            }
        }
    }
}

impl fmt::Display for DifferenceEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |largest, x| x.abs().max(largest))
}

/// In f64, where the quotient of subnormal numbers is one, too.
fn code(value: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    (f64::from(value) / f64::from(scale) * 127.0).round_ties_even() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all magnitudes.
    fn values(count: usize) -> Vec<f32> {
        let at =
            |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 10f32.powi((i % 11) as i32 - 8);
        (0..count).map(at).collect()
    }

    #[test]
    fn bytes_are_as_many_as_told_and_f32_is_exact() {
        for count in [0, 1, 255, 256, 257, 1000] {
            let values = values(count);
            for encoding in DifferenceEncoding::ALL {
                let bytes = encoding.encode(&values);
                assert_eq!(bytes.len(), encoding.bytes(count), "{encoding} {count}");
                let decoded = encoding.decode(&bytes, count);
                assert_eq!(decoded.len(), count);
                assert!(encoding != DifferenceEncoding::F32 || decoded == values);
            }
        }
    }

    #[test]
    fn errors_are_within_half_a_step() {
        let values = values(1000);
        let decoded =
            |encoding: DifferenceEncoding| encoding.decode(&encoding.encode(&values), 1000);
        for (x, y) in values.iter().zip(decoded(DifferenceEncoding::F16)) {
            let bound = (f64::from(x.abs()) * 2f64.powi(-11)).max(2f64.powi(-25));
            assert!((f64::from(*x) - f64::from(y)).abs() <= bound, "{x} {y}");
        }
        let decoded = decoded(DifferenceEncoding::Int8);
        for (block, decoded) in values.chunks(BLOCK).zip(decoded.chunks(BLOCK)) {
            let scale = f64::from(largest(block));
            for (x, y) in block.iter().zip(decoded) {
                // And the rounding of the decoded number to f32.
                let bound = scale / 254.0 + scale * 2f64.powi(-24);
                assert!((f64::from(*x) - f64::from(*y)).abs() <= bound, "{x} {y} of {scale}");
            }
        }
    }

    #[test]
    fn the_smallest_and_the_largest_stay() {
        for x in [f32::from_bits(1), -f32::from_bits(3), f32::MAX, -f32::MAX, 0.0] {
            let encoding = DifferenceEncoding::Int8;
            assert!(encoding.holds(x));
            assert_eq!(encoding.decode(&encoding.encode(&[x, 0.0]), 2), [x, 0.0]);
        }
        assert!(
            DifferenceEncoding::F16.holds(65_504.0) && !DifferenceEncoding::F16.holds(65_536.0)
        );
        for encoding in DifferenceEncoding::ALL {
            assert!(!encoding.holds(f32::NAN) && !encoding.holds(f32::INFINITY));
        }
    }
}
