//! What a step left behind: read from a ring on the device, some steps late, without stalling it.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::parameters;
use crate::step::{Event, Reason, TelemetryRecord};

/// One step as the device saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Telemetry {
    /// Number of the step, counted from 0, skipped ones included.
    pub step: u64,
    /// Loss of the step: over all its targets for a cross-entropy, else the mean over its
    /// microbatches. NaN or Inf where that of one microbatch is.
    pub loss: f32,
    /// Global norm of the unscaled gradients before clipping: L2, or L∞ when clipping by it.
    pub gradient_norm: f32,
    /// Norms above were clipped to it; the largest f32 where nothing clips by norm.
    pub max_norm: f32,
    /// Factor of the norm clip, at most 1.
    pub clip_coefficient: f32,
    /// Loss scale the step ran with.
    pub loss_scale: f32,
    /// Whether the step changed anything.
    pub applied: bool,
    /// Steps skipped so far, this one included.
    pub skipped_total: u32,
    /// Steps skipped in a row, this one included.
    pub skipped_in_row: u32,
    /// Steps applied so far, this one included.
    pub applied_total: u32,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Why the step was skipped.
    pub reason: Reason,
    /// Gradient elements that were NaN or Inf; with a loss scale also those at the largest f32.
    pub nonfinite_count: u32,
    /// Gradient elements that were exactly zero.
    pub zero_count: u32,
    /// Why training has given up, once it has.
    pub gave_up: Option<Reason>,
    /// What policies did, as bits; [`events`](Self::events) gives them one by one.
    pub event_bits: u32,
    /// What made a policy act: a z-score, a ratio; 0 without an event.
    pub event_value: f32,
    /// Index of the tensor an event was about, where there is one, in
    /// [`Parameters::trained`](crate::plan::Parameters::trained).
    pub event_tensor: u32,
}

impl From<&TelemetryRecord> for Telemetry {
    fn from(record: &TelemetryRecord) -> Self {
        Self {
            step: u64::from(record.step),
            loss: record.loss,
            gradient_norm: record.gradient_norm,
            max_norm: record.max_norm,
            clip_coefficient: record.clip_coefficient,
            loss_scale: record.loss_scale,
            applied: record.applied != 0,
            skipped_total: record.skipped_total,
            skipped_in_row: record.skipped_in_row,
            applied_total: record.applied_total,
            learning_rate: record.learning_rate,
            reason: Reason::from_bits(record.reason),
            nonfinite_count: record.nonfinite_count,
            zero_count: record.zero_count,
            gave_up: (record.gave_up != 0).then(|| Reason::from_bits(record.gave_up)),
            event_bits: record.events,
            event_value: record.event_value,
            event_tensor: record.event_tensor,
        }
    }
}

impl Telemetry {
    /// What policies did in this step.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        Event::from_bits(self.event_bits)
    }

    /// Whether the norm clip made the gradients smaller.
    pub fn clipped(&self) -> bool {
        self.applied && self.clip_coefficient < 1.0
    }

    /// The report of a run that has given up.
    pub(crate) fn gave_up_error(&self) -> Error {
        Error::GaveUp {
            step: self.step,
            reason: format!("{:?}", self.gave_up.unwrap_or(Reason::None)),
            skipped_in_row: self.skipped_in_row,
            applied_total: self.applied_total,
            loss_scale: self.loss_scale,
        }
    }

    /// Fails for a step that was skipped because its gradients, its loss or its new running
    /// statistics were not finite, for those who want to stop at the first one
    /// (`error_if_nonfinite` of PyTorch, for gradients).
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`], [`Error::NonFiniteLoss`], [`Error::NonFiniteState`].
    pub fn error_if_nonfinite(&self) -> Result<()> {
        let (step, loss) = (self.step, self.loss);
        if self.nonfinite_count > 0 {
            return Err(Error::NonFiniteGradient { step, count: self.nonfinite_count.into() });
        }
        if !loss.is_finite() {
            return Err(Error::NonFiniteLoss { step, loss });
        }
        match self.reason {
            Reason::NonFiniteState => Err(Error::NonFiniteState { step }),
            _ => Ok(()),
        }
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
    /// A ring of `capacity` records, or of as many as a binding takes.
    pub async fn new(gpu: &Gpu, capacity: u32, padding: u32) -> Result<Self> {
        let capacity = Self::capacity(capacity, gpu.largest_binding());
        let bytes = Self::bytes(capacity);
        let make = || gpu.buffer("telemetry", bytes);
        let buffer = parameters::allocate(gpu, "the telemetry ring", bytes, make).await?;
        Ok(Self { buffer, capacity, read: 0, padding })
    }

    /// How many of so many records a binding of so many bytes takes.
    pub fn capacity(wanted: u32, largest_binding: u64) -> u32 {
        let most = largest_binding / size_of::<TelemetryRecord>() as u64;
        wanted.min(u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// Bytes of so many records.
    pub fn bytes(capacity: u32) -> u64 {
        u64::from(capacity) * size_of::<TelemetryRecord>() as u64
    }

    /// Forgets what came before `step`.
    pub fn start_at(&mut self, step: u64) {
        self.read = step;
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
