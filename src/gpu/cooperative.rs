//! Which cooperative matrices products may use on a device: those that it has and that pass a
//! self-test.

use super::Gpu;
#[cfg(not(target_arch = "wasm32"))]
use super::numerics::cooperative;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::Result;
use crate::kernel::{CooperativeMatrix, Precision};

/// What came of asking a device for [cooperative matrices](CooperativeMatrix).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CooperativeMatrices {
    /// Those that products use, at most one for each storage of tensors.
    pub admitted: Vec<CooperativeMatrix>,
    /// Why others, or all of them, are not used; a sentence each.
    pub refused: Vec<String>,
}

/// Of a device that nobody asked.
static NONE: CooperativeMatrices =
    CooperativeMatrices { admitted: Vec::new(), refused: Vec::new() };

impl Gpu {
    /// The cooperative matrices that matrix products use on this device. None unless it was opened
    /// with [`GpuOptions::cooperative_matrices`](super::GpuOptions::cooperative_matrices), or
    /// `admit_cooperative_matrices` was called; never in a browser.
    pub fn cooperative_matrices(&self) -> &CooperativeMatrices {
        self.shared.matrices.get().unwrap_or(&NONE)
    }

    /// Has matrix products use the cooperative matrices that the adapter of this device has, for a
    /// device that was made elsewhere with what
    /// [`Requirements::with_cooperative_matrices`](super::Requirements::with_cooperative_matrices)
    /// says. Each is asked for exact products first, and for what becomes of NaN, Inf and the
    /// smallest halves; what answers wrongly is not used. Call it before anything is recorded: plans
    /// keep the kernels that they were made with. A second call changes nothing.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn admit_cooperative_matrices(
        &self,
        adapter: &wgpu::Adapter,
    ) -> Result<&CooperativeMatrices> {
        if self.shared.matrices.get().is_none() {
            let found = self.tested(&adapter.cooperative_matrix_properties()).await?;
            self.shared.matrices.get_or_init(|| found);
        }
        Ok(self.cooperative_matrices())
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn tested(
        &self,
        offered: &[wgpu::CooperativeMatrixProperties],
    ) -> Result<CooperativeMatrices> {
        let mut found = CooperativeMatrices::default();
        let is_offered = |matrix: &CooperativeMatrix| offered.iter().any(|one| matrix.is(one));
        let features = self.device.features();
        for matrix in CooperativeMatrix::ALL.into_iter().filter(is_offered) {
            if found.of(matrix.precision()).is_some() {
                continue;
            }
            let missing = matrix.features() - features;
            if !missing.is_empty() {
                found.refused.push(format!("{matrix}: the device was made without {missing}"));
            } else if let Some(wrong) = cooperative::first_wrong(self, matrix).await? {
                found.refused.push(format!("{matrix}: {wrong}"));
            } else {
                found.admitted.push(matrix);
            }
        }
        if found.admitted.is_empty() && found.refused.is_empty() {
            found.refused.push(none_fits(offered));
        }
        Ok(found)
    }

    /// The matrices that products of tensors in this storage use.
    pub(super) fn matrix_of(&self, precision: Precision) -> Option<CooperativeMatrix> {
        self.cooperative_matrices().of(precision)
    }
}

impl CooperativeMatrices {
    /// Those that products of tensors in this storage use.
    pub fn of(&self, precision: Precision) -> Option<CooperativeMatrix> {
        self.admitted.iter().copied().find(|matrix| matrix.precision() == precision)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn none_fits(offered: &[wgpu::CooperativeMatrixProperties]) -> String {
    let words = |one: &wgpu::CooperativeMatrixProperties| {
        let wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, .. } =
            one;
        format!("{m_size} x {n_size} x {k_size} of {ab_type:?} with sums in {cr_type:?}")
    };
    match offered {
        [] => "the adapter has no cooperative matrices".to_owned(),
        offered => {
            let offered: Vec<_> = offered.iter().map(words).collect();
            format!("no kernel is for what the adapter has: {}", offered.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    #[test]
    fn what_an_adapter_offers_is_recognised() {
        let offered = |size, ab_type, cr_type| wgpu::CooperativeMatrixProperties {
            m_size: size,
            n_size: size,
            k_size: size,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        };
        let found = |offered: wgpu::CooperativeMatrixProperties| {
            CooperativeMatrix::ALL.into_iter().filter(|one| one.is(&offered)).collect::<Vec<_>>()
        };
        assert_eq!(found(offered(16, F16, F32)), [CooperativeMatrix::F16x16]);
        assert_eq!(found(offered(8, F16, F32)), [CooperativeMatrix::F16x8]);
        assert_eq!(found(offered(8, F32, F32)), [CooperativeMatrix::F32x8]);
        // Sums in f16 lose what the library promises, and other shapes have no kernel.
        let narrow = wgpu::CooperativeMatrixProperties { k_size: 8, ..offered(16, F16, F32) };
        let clamped = wgpu::CooperativeMatrixProperties {
            saturating_accumulation: true,
            ..offered(16, F16, F32)
        };
        for other in [offered(16, F16, F16), offered(16, F32, F32), narrow, clamped] {
            assert_eq!(found(other), [], "{other:?}");
        }
        assert_eq!(none_fits(&[]), "the adapter has no cooperative matrices");
        assert_eq!(
            none_fits(&[offered(16, F16, F16)]),
            "no kernel is for what the adapter has: 16 x 16 x 16 of F16 with sums in F16"
        );
    }
}
