//! What a step left behind: read from a ring on the device, some steps late, without stalling it.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::step::{Reason, TelemetryRecord};

/// One step as the device saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Telemetry {
    /// Number of the step, counted from 0, skipped ones included.
    pub step: u64,
    /// Mean loss over the step's microbatches.
    pub loss: f32,
    /// Global norm of the unscaled gradients before clipping: L2, or L∞ when clipping by it.
    pub gradient_norm: f32,
    /// Factor of the norm clip, at most 1.
    pub clip_coefficient: f32,
    /// Loss scale the step ran with.
    pub loss_scale: f32,
    /// Whether the step changed anything.
    pub applied: bool,
    /// Steps skipped so far, this one included.
    pub skipped_total: u32,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Why the step was skipped.
    pub reason: Reason,
    /// Gradient elements that were NaN or Inf.
    pub nonfinite_count: u32,
    /// Gradient elements that were exactly zero.
    pub zero_count: u32,
}

impl From<&TelemetryRecord> for Telemetry {
    fn from(record: &TelemetryRecord) -> Self {
        Self {
            step: u64::from(record.step),
            loss: record.loss,
            gradient_norm: record.gradient_norm,
            clip_coefficient: record.clip_coefficient,
            loss_scale: record.loss_scale,
            applied: record.applied != 0,
            skipped_total: record.skipped_total,
            learning_rate: record.learning_rate,
            reason: Reason::from_bits(record.reason),
            nonfinite_count: record.nonfinite_count,
            zero_count: record.zero_count,
        }
    }
}

impl Telemetry {
    /// Fails for a step that was skipped because its gradients were not finite, for those who
    /// want to stop at the first one (`error_if_nonfinite` of PyTorch).
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`].
    pub fn error_if_nonfinite(&self) -> Result<()> {
        if self.nonfinite_count == 0 {
            return Ok(());
        }
        let count = u64::from(self.nonfinite_count);
        Err(Error::NonFiniteGradient { step: self.step, count })
    }
}

/// The ring and how far it was read.
#[derive(Debug)]
pub(crate) struct TelemetryRing {
    pub buffer: wgpu::Buffer,
    pub capacity: u32,
    read: u64,
    /// Elements of padding, which the scan counts among the zeros.
    padding: u32,
}

impl TelemetryRing {
    pub fn new(gpu: &Gpu, capacity: u32, padding: u32) -> Self {
        let bytes = u64::from(capacity) * size_of::<TelemetryRecord>() as u64;
        Self { buffer: gpu.buffer("telemetry", bytes), capacity, read: 0, padding }
    }

    /// The records of steps `read..attempted`, as far as the ring still holds them.
    pub async fn read(&mut self, gpu: &Gpu, attempted: u64) -> Result<Vec<Telemetry>> {
        let first = self.read.max(attempted.saturating_sub(u64::from(self.capacity)));
        if first == attempted {
            return Ok(Vec::new());
        }
        let records: Vec<TelemetryRecord> =
            gpu.read(&self.buffer, 0, self.capacity as usize).await?;
        self.read = attempted;
        let at = |step: u64| (step % u64::from(self.capacity)) as usize;
        let record = |step| {
            let record = Telemetry::from(&records[at(step)]);
            Telemetry { zero_count: record.zero_count - self.padding, ..record }
        };
        Ok((first..attempted).map(record).collect())
    }
}
