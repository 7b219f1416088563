//! Weights and moments advance, segment by segment, if the verdict is to apply the step.

use super::Pass;
use crate::error::Result;
use crate::record::Recorder;
use crate::train::Optimizer;
use crate::train::optimizers::Segment;

/// The optimizer's update.
pub(super) struct Advance<'a> {
    pub optimizer: &'a dyn Optimizer,
    pub segments: &'a [Segment<'a>],
}

impl Pass for Advance<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        for segment in self.segments {
            self.optimizer.record(recorder, segment);
        }
        Ok(())
    }
}
