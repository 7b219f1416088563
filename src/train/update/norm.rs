//! The norm of all gradients, which opens the step.

use super::Pass;
use crate::error::Result;
use crate::record::Recorder;
use crate::train::Norm;

/// What a scan left, and the tensors it is about.
pub(in crate::train) struct ScanPass<'a> {
    /// One per chunk, and zeros between segments.
    pub partials: &'a wgpu::Buffer,
    pub partial_count: u32,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    pub tensor_count: u32,
}

/// Folds what the scan left.
pub(super) struct GlobalNorm<'a> {
    pub norm: Norm,
    pub scan: ScanPass<'a>,
    /// Norms above are clipped to it.
    pub max_norm: f32,
}

impl Pass for GlobalNorm<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        self.norm.record(recorder, &self.scan, self.max_norm);
        Ok(())
    }
}
