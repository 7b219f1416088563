//! Cooperative matrices: small matrices that the invocations of a subgroup hold together and multiply
//! by a GPU's matrix units, as SPIR-V's `VK_KHR_cooperative_matrix` and Metal's SIMD-group matrices
//! have them.

use std::fmt;

use wgpu::CooperativeScalarType as Scalar;

#[cfg(not(target_arch = "wasm32"))]
use super::fragment::Fragment;
use super::precision::Precision;
#[cfg(not(target_arch = "wasm32"))]
use super::shared;
use super::variant::ProductTile;

/// What the matrices of a product are: their size, and the type of their operands. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CooperativeMatrix {
    /// 16 x 16 x 16, f16: NVIDIA, AMD.
    F16x16,
    /// 8 x 8 x 8, f16: Apple, lavapipe.
    F16x8,
    /// 8 x 8 x 8, f32: Apple.
    F32x8,
}

impl CooperativeMatrix {
    /// All of them; of those for the same storage, the larger first.
    pub const ALL: [Self; 3] = [Self::F16x16, Self::F16x8, Self::F32x8];

    /// The storage of the tensors that are multiplied, which is also the type of the operands: no
    /// element that a tensor stores is rounded.
    pub const fn precision(self) -> Precision {
        match self {
            Self::F16x16 | Self::F16x8 => Precision::F16,
            Self::F32x8 => Precision::F32,
        }
    }

    /// Rows and columns of a matrix.
    pub const fn size(self) -> u32 {
        match self {
            Self::F16x16 => 16,
            Self::F16x8 | Self::F32x8 => 8,
        }
    }

    /// The tile of C that a workgroup computes with them: 4 x 4 matrices.
    pub const fn tile(self) -> ProductTile {
        match self {
            Self::F16x16 => ProductTile::Of64,
            Self::F16x8 | Self::F32x8 => ProductTile::Of32,
        }
    }

    /// Features of the device that kernels with them need.
    pub fn features(self) -> wgpu::Features {
        use wgpu::Features;
        let mut features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SUBGROUP;
        features.set(Features::SHADER_F16, self.precision() == Precision::F16);
        features
    }

    /// Whether these are what an adapter says that it has.
    pub fn is(self, offered: &wgpu::CooperativeMatrixProperties) -> bool {
        let scalar = if self.precision() == Precision::F16 { Scalar::F16 } else { Scalar::F32 };
        let sizes = [offered.m_size, offered.n_size, offered.k_size];
        sizes == [self.size(); 3]
            && offered.ab_type == scalar
            && offered.cr_type == Scalar::F32
            && !offered.saturating_accumulation
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(super) const fn fragment(self) -> Fragment {
        match self {
            Self::F16x16 => shared::COOPERATIVE_F16_16,
            Self::F16x8 => shared::COOPERATIVE_F16_8,
            Self::F32x8 => shared::COOPERATIVE_F32_8,
        }
    }
}

/// `f16 16 x 16 x 16`
impl fmt::Display for CooperativeMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size();
        f.pad(&format!("{} {size} x {size} x {size}", self.precision()))
    }
}
