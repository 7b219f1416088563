//! What is known of the step goes into the ring.

use super::Pass;
use crate::error::Result;
use crate::kernels::{Telemetry, TelemetryParams};
use crate::record::{Recorder, StepBuffers};
use crate::train::TelemetryRing;

/// The record of the step.
pub(super) struct Report<'a> {
    pub step: &'a StepBuffers,
    pub loss: &'a wgpu::Buffer,
    pub ring: &'a TelemetryRing,
}

impl Pass for Report<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        recorder.dispatch(&Telemetry {
            params: TelemetryParams { capacity: self.ring.capacity },
            input: self.step.input.as_entire_buffer_binding(),
            state: self.step.state.as_entire_buffer_binding(),
            loss: self.loss.as_entire_buffer_binding(),
            ring: self.ring.buffer.as_entire_buffer_binding(),
        });
        Ok(())
    }
}
