//! How tensors are stored: f32, or half as many bytes in f16 or bf16. Arithmetic and accumulation
//! are f32 whatever the storage.
//!
//! A kernel reads and writes tensors through `unpack` and `pack` of a shared fragment, so one
//! kernel text serves every [`Precision`]; a pipeline is compiled for a [`Variant`]. Halves are
//! packed two to a word by integer operations, which works on devices without a half-precision
//! feature and gives the bits of the [`half`] crate on all of them: to nearest, ties to even,
//! overflow to Inf, subnormals kept.

use std::fmt;

use crate::kernel::Fragment;
use crate::kernels::shared;

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

    /// `Quad`, `unpack` and `pack` for this storage.
    pub const fn fragment(self) -> Fragment {
        match self {
            Self::F32 => shared::QUAD_F32,
            Self::F16 => shared::QUAD_F16,
            Self::Bf16 => shared::QUAD_BF16,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    /// f32: 4 bytes per parameter, and 2 more for a copy to compute with in half precision.
    #[default]
    F32,
}

impl WeightStorage {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::F32];
}

/// For which storage a kernel is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Storage of tensors.
    pub precision: Precision,
    /// Storage of the optimizer's weights.
    pub weights: WeightStorage,
}

impl From<Precision> for Variant {
    fn from(precision: Precision) -> Self {
        Self { precision, ..Self::default() }
    }
}

impl Variant {
    /// Every combination.
    pub fn all() -> impl Iterator<Item = Self> {
        let weights = WeightStorage::ALL;
        let each = move |precision| weights.map(|weights| Self { precision, weights });
        Precision::ALL.into_iter().flat_map(each)
    }

    /// The fragment that stands for `fragment` in this variant.
    pub fn substitute(self, fragment: &Fragment) -> Fragment {
        match fragment.stem() {
            "quad_f32" => self.precision.fragment(),
            _ => *fragment,
        }
    }
}
