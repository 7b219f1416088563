//! How numbers in f16 are read and written: by integers, or by the device's own conversions.

use super::fragment::Fragment;
use super::shared;

/// The ways on which f16 goes by the device's own conversions in the place of integer operations,
/// with the same bits where a device passed a self-test
/// ([`Gpu::half_conversions`](crate::Gpu::half_conversions)): but for those of a NaN that is read,
/// which stays one. In operations on single numbers, as the texts have them, an element takes 15.5 to
/// be read by integers and 1 by the device, 34 to be written by integers and 3.25 by the device, its
/// share of the test for what no half holds included.
///
/// ```
/// use evenkeel::Precision;
/// use evenkeel::kernel::{HalfConversions, Kernel, Variant};
/// use evenkeel::kernels::CastToF32;
///
/// let integers = Variant::from(Precision::F16);
/// let device = Variant { half_conversions: HalfConversions::BOTH, ..integers };
/// let text = |variant| CastToF32::DECLARATION.source_of(variant);
/// assert!(!text(integers).contains("unpack2x16float"));
/// assert!(text(device).contains("unpack2x16float"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HalfConversions {
    /// Whether f16 becomes f32 by `unpack2x16float`: tensors, and the scales of weights in
    /// [blocks](super::BlockFormat).
    pub loads: bool,
    /// Whether f32 becomes f16 by `pack2x16float`, where four neighbours are finite and no larger
    /// than the largest half.
    pub stores: bool,
}

impl HalfConversions {
    /// By integers both ways.
    pub const NONE: Self = Self { loads: false, stores: false };
    /// By the device both ways.
    pub const BOTH: Self = Self { loads: true, stores: true };
    /// Every combination.
    pub const ALL: [Self; 4] = [
        Self::NONE,
        Self { loads: true, stores: false },
        Self { loads: false, stores: true },
        Self::BOTH,
    ];

    /// The ways of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { loads: self.loads || other.loads, stores: self.stores || other.stores }
    }

    /// `unpack_f16`.
    pub(super) const fn load_fragment(self) -> Fragment {
        match self.loads {
            true => shared::UNPACK_F16_CONVERTED,
            false => shared::UNPACK_F16,
        }
    }

    /// `Quad`, `unpack` and `pack` over f16, and what they need.
    pub(super) const fn quad_fragments(self) -> [Fragment; 4] {
        let pack = match self.stores {
            true => shared::PACK_F16_CONVERTED,
            false => shared::PACK_F16,
        };
        [self.load_fragment(), shared::ROUND_F16, pack, shared::QUAD_F16]
    }
}
