//! Which conversions of f16 kernels leave to a device: those that give the bits of the integer ones.

use super::{Gpu, numerics};
use crate::error::Result;
use crate::kernel::HalfConversions;

/// What came of asking a device for its [conversions of f16](HalfConversions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmittedConversions {
    /// Those that kernels use.
    pub admitted: HalfConversions,
    /// Why others, or both, are not used; a sentence each.
    pub refused: Vec<String>,
}

/// Of a device that nobody asked.
static NOT_ASKED: AdmittedConversions =
    AdmittedConversions { admitted: HalfConversions::NONE, refused: Vec::new() };

impl Gpu {
    /// The conversions of f16 that kernels leave to this device. None before the first plan whose
    /// values are in f16, or whose weights lie in blocks, is made, or `admit_half_conversions` was
    /// called, and none with [`GpuOptions::integer_halves`](super::GpuOptions::integer_halves).
    pub fn half_conversions(&self) -> &AdmittedConversions {
        self.shared.conversions.get().unwrap_or(&NOT_ASKED)
    }

    /// Asks the device for its conversions of f16, once: of all 65,536 halves to f32, and of some
    /// 381,000 numbers to halves, among them each half, each midpoint between two and the neighbours
    /// of both, and what is beyond the largest. Those whose bits are the ones of the integer
    /// operations are used from here on. It takes two small kernels; plans ask by themselves before
    /// they record anything in f16, and those made before keep the kernels that they were made with.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn admit_half_conversions(&self) -> Result<&AdmittedConversions> {
        if self.shared.conversions.get().is_none() {
            let found = match self.shared.options.integer_halves {
                true => AdmittedConversions::refused("integer_halves asks for integers".to_owned()),
                false => numerics::halves::tested(self).await?,
            };
            self.shared.conversions.get_or_init(|| found);
        }
        Ok(self.half_conversions())
    }
}

impl AdmittedConversions {
    /// None, for this reason.
    pub(super) fn refused(reason: String) -> Self {
        Self { refused: vec![reason], ..Self::default() }
    }

    /// What it means for tensors in f16.
    pub(super) fn consequence(&self) -> String {
        let HalfConversions { loads, stores } = self.admitted;
        let ways = match (loads, stores) {
            (true, true) => "used: f16 is read and written by them, with the bits of integers",
            (true, false) => "f16 is read by them, and written by integers",
            (false, true) => "f16 is written by them, and read by integers",
            (false, false) => "not used: halves are converted by integer operations",
        };
        match self.refused.as_slice() {
            [] => ways.to_owned(),
            reasons => format!("{ways} ({})", reasons.join("; ")),
        }
    }
}
