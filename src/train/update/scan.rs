//! Every gradient is read once, as bits; each chunk leaves a partial result.

use super::Pass;
use crate::error::Result;
use crate::kernels::{OVERFLOW_LARGEST, OVERFLOW_NONFINITE};
use crate::record::Recorder;
use crate::train::chunk_tables::ChunkTables;
use crate::train::{LossScale, Norm};

/// The scan of flat buffers with the parameters' layout, for a norm.
pub(super) struct Scan<'a> {
    pub norm: Norm,
    pub tables: &'a ChunkTables,
    /// By trained segment.
    pub gradients: &'a [wgpu::Buffer],
    pub overflow_bits: u32,
}

impl Pass for Scan<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        for (segment, gradient) in self.gradients.iter().enumerate() {
            self.norm.record_scan(recorder, self.tables, segment, gradient, self.overflow_bits);
        }
        Ok(())
    }
}

/// What counts as overflow: with a loss scale also what an overflow may be rounded to.
pub(super) fn overflow_bits(loss_scale: LossScale) -> u32 {
    if loss_scale.is_on() { OVERFLOW_LARGEST } else { OVERFLOW_NONFINITE }
}
