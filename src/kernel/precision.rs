//! How tensors are stored: f32, or half as many bytes in f16 or bf16. Arithmetic and accumulation
//! are f32 whatever the storage.
//!
//! [`Precision`] is about activations and the weights that kernels compute with,
//! [`WeightStorage`] about the weights that the optimizer changes a little in every step.
//!
//! A kernel reads and writes tensors through `unpack` and `pack` of a shared fragment, so one
//! kernel text serves every [`Precision`]; a pipeline is compiled for a
//! [`Variant`](crate::kernel::Variant). Halves are
//! packed two to a word by integer operations, which works on devices without a half-precision
//! feature and gives the bits of the [`half`] crate on all of them: to nearest, ties to even,
//! overflow to Inf, subnormals kept. Where a device's own conversions of f16 were found to give the
//! same bits, they stand for those ([`HalfConversions`](crate::kernel::HalfConversions)).

use std::fmt;

use super::fragment::Fragment;
use super::shared;

/// Storage of activations and of the weights that kernels compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// IEEE binary32.
    #[default]
    F32,
    /// IEEE binary16: 11 bits of significand, magnitudes from 6e-8 to 65,504. Gradients need a
    /// loss scale.
    F16,
    /// bfloat16: 8 bits of significand, the range of f32.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of four elements.
    pub const fn quad_bytes(self) -> u64 {
        match self {
            Self::F32 => 16,
            Self::F16 | Self::Bf16 => 8,
        }
    }

    /// The smallest magnitude with all bits of significand.
    pub const fn smallest_normal(self) -> f32 {
        match self {
            Self::F32 | Self::Bf16 => f32::MIN_POSITIVE,
            Self::F16 => 6.103_515_6e-5,
        }
    }

    /// `Quad`, `unpack` and `pack` for this storage, and what they need.
    pub const fn fragments(self) -> &'static [Fragment] {
        match self {
            Self::F32 => &[shared::QUAD_F32],
            Self::F16 => {
                &[shared::UNPACK_F16, shared::ROUND_F16, shared::PACK_F16, shared::QUAD_F16]
            }
            Self::Bf16 => &[shared::BF16, shared::QUAD_BF16],
        }
    }

    /// The bytes that hold `values`, whose length is a multiple of four, on the device.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::F16 => encode(values, |x| half::f16::from_f32(x).to_bits()),
            Self::Bf16 => encode(values, |x| half::bf16::from_f32(x).to_bits()),
        }
    }

    /// The values that `bytes` from the device hold.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytemuck::pod_collect_to_vec(bytes),
            Self::F16 => decode(bytes, |bits| half::f16::from_bits(bits).to_f32()),
            Self::Bf16 => decode(bytes, |bits| half::bf16::from_bits(bits).to_f32()),
        }
    }
}

fn encode(values: &[f32], half: impl Fn(f32) -> u16) -> Vec<u8> {
    values.iter().flat_map(|&x| half(x).to_le_bytes()).collect()
}

fn decode(bytes: &[u8], single: impl Fn(u16) -> f32) -> Vec<f32> {
    bytes.chunks_exact(2).map(|pair| single(u16::from_le_bytes([pair[0], pair[1]]))).collect()
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// How the optimizer holds the weights it trains.
///
/// An update is often smaller than half the distance between two neighbours in bf16, 2^-9 of the
/// weight, and rounding to nearest then loses it, every time: 1 + 0.001 is 1, a thousand times over.
/// So bf16 weights need something beside them. The gradient, the moments and the sum `old + change`
/// are f32 in every storage, and nothing here depends on the optimizer.
///
/// | storage | bytes per parameter | with [`Precision::Bf16`] in all | what it loses |
/// |---|---|---|---|
/// | [`F32`](Self::F32) | 4 | 6, with a copy to compute with | nothing |
/// | [`Bf16Split`](Self::Bf16Split) | 4 | 4 | nothing |
/// | [`Bf16Kahan`](Self::Bf16Kahan) | 4 | 4 | what is below 2^-17 of a weight, about |
/// | [`Bf16Stochastic`](Self::Bf16Stochastic) | 2 | 2 | nothing on average; each weight is noisy |
///
/// With the three in bf16, kernels read the weights where the optimizer keeps them: a step in
/// [`Precision::Bf16`] makes no copies. In other precisions it does: bf16 weights save memory with
/// bf16 activations only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    /// f32: 4 bytes per parameter, and 2 more for a copy to compute with in half precision.
    #[default]
    F32,
    /// bf16 and nothing else, with stochastic rounding: 2 bytes per parameter.
    ///
    /// With a random number r of 16 bits, `new = (bits of (old + change) + r)` without its lower 16
    /// bits: up or down with the odds that make `new` right on average. A value of bf16 is never
    /// changed, a finite one never becomes Inf. (As llm.c and torchao do it; Gupta et al., "Deep
    /// learning with limited numerical precision", 2015.)
    ///
    /// r is counter-based, a function of the seed, the number of applied steps and the position in
    /// the flat buffer: a run repeats its bits, after a skipped step too. Positions count anew in
    /// each of a large model's buffers.
    ///
    /// For when memory is what limits you. The noise of the weights, up to 2^-9 of each and new in
    /// every step, can cost a little at the end of training, when the learning rate is small.
    Bf16Stochastic,
    /// bf16, and a second bf16 of what rounding has kept from it: 4 bytes per parameter.
    ///
    /// ```text
    /// wanted = compensation + change      new = round(old + wanted)
    /// compensation = wanted + (old - new)
    /// ```
    ///
    /// (Kahan, "Further remarks on reducing truncation errors", 1965; as optimi does it after
    /// Zamirai et al., "Revisiting bfloat16 training", 2020.)
    ///
    /// It takes as much memory as [`Bf16Split`](Self::Bf16Split), which is exact, and is there to
    /// reproduce runs of programs that work this way. The optimizer decays the bf16 weight, without
    /// the compensation.
    Bf16Kahan,
    /// bf16, and the 16 bits that are missing to f32: 4 bytes per parameter.
    ///
    /// With the bits of f32 as one integer, `weight = (bits + 2^15) / 2^16` is the nearest bf16, and
    /// `remainder = bits mod 2^16`; `bits = 2^16 weight + remainder`, the remainder taken as a
    /// signed number, which is negative where the weight was rounded up. (As the parameter
    /// remainders of Transformer Engine's Adam.)
    ///
    /// The optimizer sees what it would see in [`F32`](Self::F32), bit by bit; only NaN loses its
    /// payload. The weight to compute with is the nearest bf16, but ties, one in 65,536, are
    /// rounded away from zero: to even, as the copies of [`F32`](Self::F32) are, two numbers would
    /// share weight and remainder. As there, a weight above 3.39e38 is Inf to compute with.
    ///
    /// The one to take with [`Precision::Bf16`] unless memory is short.
    Bf16Split,
}

impl WeightStorage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16Stochastic, Self::Bf16Kahan, Self::Bf16Split];

    /// Precision of the weights that kernels read.
    pub const fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16Stochastic | Self::Bf16Kahan | Self::Bf16Split => Precision::Bf16,
        }
    }

    /// Bytes of four weights, with all that is kept of them.
    pub const fn quad_bytes(self) -> u64 {
        match self {
            Self::Bf16Stochastic => 8,
            Self::F32 | Self::Bf16Kahan | Self::Bf16Split => 16,
        }
    }

    /// `Weight` and its functions for this storage, and what they need.
    pub const fn fragments(self) -> &'static [Fragment] {
        use shared::{
            BF16, RANDOM, WEIGHT_BF16_KAHAN, WEIGHT_BF16_SPLIT, WEIGHT_BF16_STOCHASTIC, WEIGHT_F32,
        };
        match self {
            Self::F32 => &[WEIGHT_F32],
            Self::Bf16Stochastic => &[BF16, RANDOM, WEIGHT_BF16_STOCHASTIC],
            Self::Bf16Kahan => &[BF16, WEIGHT_BF16_KAHAN],
            Self::Bf16Split => &[BF16, WEIGHT_BF16_SPLIT],
        }
    }

    /// The bytes that hold `values`, whose length is a multiple of four: the weights that kernels
    /// read, and what is kept beside them, if anything is.
    pub fn encode(self, values: &[f32]) -> [Vec<u8>; 2] {
        let weights = match self {
            Self::Bf16Split => encode(values, |x| split(x)[0]),
            _ => self.precision().encode(values),
        };
        let beside = match self {
            Self::F32 | Self::Bf16Stochastic => Vec::new(),
            Self::Bf16Split => encode(values, |x| split(x)[1]),
            Self::Bf16Kahan => {
                let nearest = self.precision().decode(&weights);
                let lost: Vec<_> = values.iter().zip(nearest).map(|(x, near)| x - near).collect();
                self.precision().encode(&lost)
            }
        };
        [weights, beside]
    }

    /// All that is known of weights whose bytes are `weights`, and `beside` what is kept beside
    /// them: for [`Bf16Kahan`](Self::Bf16Kahan) the sum of both, rounded to f32.
    pub fn decode(self, weights: &[u8], beside: &[u8]) -> Vec<f32> {
        let nearest = self.precision().decode(weights);
        match self {
            Self::F32 | Self::Bf16Stochastic => nearest,
            Self::Bf16Kahan => {
                let lost = self.precision().decode(beside);
                nearest.iter().zip(lost).map(|(near, lost)| near + lost).collect()
            }
            Self::Bf16Split => {
                let remainders = beside.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]]));
                nearest.iter().zip(remainders).map(|(&near, r)| join(near, r)).collect()
            }
        }
    }
}

/// Nearest bf16, ties away from zero, and lower bits of an f32.
fn split(x: f32) -> [u16; 2] {
    if x.is_nan() {
        return [half::bf16::from_f32(x).to_bits(), 0];
    }
    let bits = x.to_bits();
    [((bits + 0x8000) >> 16) as u16, bits as u16]
}

fn join(nearest: f32, remainder: i16) -> f32 {
    f32::from_bits(nearest.to_bits().wrapping_add_signed(remainder.into()))
}

impl fmt::Display for WeightStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16Stochastic => "bf16 with stochastic rounding",
            Self::Bf16Kahan => "bf16 with Kahan compensation",
            Self::Bf16Split => "bf16 with the lower half of f32",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every upper half with lower halves around the ones that matter: the bytes give back the f32,
    /// and the weight to compute with is the nearest one, Inf past the largest.
    #[test]
    fn split_is_exact_and_nearest() {
        let lower = [0u32, 1, 2, 0x1234, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0x9abc, 0xfffe, 0xffff];
        for upper in 0..=0xffffu32 {
            let values = lower.map(|lower| f32::from_bits(upper << 16 | lower));
            let [weights, remainders] = WeightStorage::Bf16Split.encode(&values);
            let joined = WeightStorage::Bf16Split.decode(&weights, &remainders);
            let near = Precision::Bf16.decode(&weights);
            for ((x, joined), near) in values.into_iter().zip(joined).zip(near) {
                if x.is_nan() {
                    assert!(joined.is_nan() && near.is_nan(), "{:#x}", x.to_bits());
                    continue;
                }
                assert_eq!(joined.to_bits(), x.to_bits(), "{:#x}", x.to_bits());
                let rounded = half::bf16::from_f32(x).to_f32();
                let tie = x.to_bits() & 0xffff == 0x8000;
                let (distance, smallest) = ((near - x).abs(), (rounded - x).abs());
                let nearest = if tie { distance == smallest } else { near == rounded };
                let away = !tie || near.abs() > x.abs();
                assert!(nearest && away, "{:#x}: {near:e}", x.to_bits());
            }
        }
    }

    /// A remainder of 2^15 belongs to two numbers that round to the same bf16 with ties to even.
    #[test]
    fn ties_to_even_could_not_be_undone() {
        let [a, b] = [0x3f7f_8000, 0x3f80_8000].map(f32::from_bits);
        assert_eq!(half::bf16::from_f32(a), half::bf16::from_f32(b));
        let split = |x| WeightStorage::Bf16Split.encode(&[x; 4]);
        assert_ne!(split(a), split(b));
    }

    #[test]
    fn kahan_keeps_sixteen_bits() {
        let values: Vec<_> = (0..4096).map(|i| 1.0 + i as f32 * 2.4e-4).collect();
        let [weights, lost] = WeightStorage::Bf16Kahan.encode(&values);
        let decoded = WeightStorage::Bf16Kahan.decode(&weights, &lost);
        for (x, decoded) in values.iter().zip(decoded) {
            assert!((x - decoded).abs() <= x * 2f32.powi(-17), "{x}: {decoded}");
        }
    }
}
