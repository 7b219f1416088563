//! What a run will take, part by part, before anything is allocated.

mod estimate;
mod variation;

use std::fmt;

pub(crate) use variation::Variation;

use super::{Model, TrainerBuilder};
use crate::error::Result;
use crate::gpu::MemoryLimits;
use crate::plan::Parameters;

/// What a trainer will hold, in bytes: what its [report](super::Trainer::report) says once it is
/// built, known before. See [`TrainerBuilder::memory`]. Printed, it is a table in MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Trained elements.
    pub parameters: usize,
    /// Elements of frozen tensors.
    pub frozen_parameters: usize,
    /// Weights, trained and frozen, and states.
    pub parameter_bytes: u64,
    /// The frozen weights among them.
    pub frozen_bytes: u64,
    /// Copies of the weights in another precision than that of their storage.
    pub copy_bytes: u64,
    /// Gradients and staged states.
    pub gradient_bytes: u64,
    /// The optimizer's moments; of one that is
    /// [sharded](super::TrainerBuilder::shard_optimizer_state), those of this rank.
    pub moment_bytes: u64,
    /// The [average](super::Ema) of the trained weights.
    pub average_bytes: u64,
    /// What the optimizer has in hand within a step ([`Muon`](super::Muon)).
    pub optimizer_bytes: u64,
    /// Activations: the slots that they share.
    pub slot_bytes: u64,
    /// What dispatches of one operation hand on to each other.
    pub scratch_bytes: u64,
    /// Inputs of a microbatch.
    pub input_bytes: u64,
    /// Constants of the model: tables of angles.
    pub constant_bytes: u64,
    /// What the plans of all other [lengths](TrainerBuilder::lengths) add, if they are made from
    /// the longest to the shortest. A trainer takes that only as they are made.
    pub other_length_bytes: u64,
    /// The inputs of all microbatches of a step, where it has several.
    pub staging_bytes: u64,
    /// The rings of telemetry: of steps, and of tensors where these are watched.
    pub telemetry_bytes: u64,
    /// What policies keep: memories, snapshots.
    pub policy_bytes: u64,
    /// The copy of the weights that watched steps keep.
    pub watch_bytes: u64,
    /// Copies for [host snapshots](TrainerBuilder::host_snapshots), in memory that the host maps:
    /// not counted in the total.
    pub snapshot_bytes: u64,
    /// Where gradients wait for other [ranks](super::ranks), in memory that the host maps: not
    /// counted in the total.
    pub exchange_bytes: u64,
    /// What it takes in the host's own memory.
    pub host: HostMemory,
}

/// What a run takes in the memory of the host, in bytes, each at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// While weights are read from a file: a few rows of a tensor in f32, and what the device has
    /// not taken yet; beside what the reader holds of the file.
    pub loading_bytes: u64,
    /// A checkpoint, once it is made.
    pub checkpoint_bytes: u64,
    /// What is read of the device for one, until it is made. With host snapshots this stays, and
    /// the last checkpoint.
    pub staged_bytes: u64,
    /// A [checkpoint of what is trained](super::Trainer::checkpoint_of_trained) alone, once it is
    /// made.
    pub trained_checkpoint_bytes: u64,
    /// What is read of the device for such a one, until it is made.
    pub trained_staged_bytes: u64,
}

impl MemoryPlan {
    /// Activations, inputs and constants, of the longest sequences.
    pub fn activation_bytes(&self) -> u64 {
        self.slot_bytes + self.scratch_bytes + self.input_bytes + self.constant_bytes
    }

    /// The same of a run whose checkpoints are
    /// [of what is trained](super::Trainer::checkpoint_of_trained), without the frozen weights.
    #[must_use]
    pub fn saving_trained(mut self) -> Self {
        self.host.checkpoint_bytes = self.host.trained_checkpoint_bytes;
        if self.snapshot_bytes == 0 {
            self.host.staged_bytes = self.host.trained_staged_bytes;
        }
        self
    }

    /// All bytes on the device.
    pub fn total_bytes(&self) -> u64 {
        let parts = [
            self.parameter_bytes,
            self.copy_bytes,
            self.gradient_bytes,
            self.moment_bytes,
            self.average_bytes,
            self.optimizer_bytes,
            self.activation_bytes(),
            self.other_length_bytes,
            self.staging_bytes,
            self.telemetry_bytes,
            self.policy_bytes,
            self.watch_bytes,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trained = self.parameter_bytes - self.frozen_bytes;
        let device = [
            ("weights, trained, and states", trained),
            ("weights, frozen", self.frozen_bytes),
            ("weights in another precision", self.copy_bytes),
            ("gradients", self.gradient_bytes),
            ("moments", self.moment_bytes),
            ("average of the weights", self.average_bytes),
            ("scratch of the optimizer", self.optimizer_bytes),
            ("activations", self.slot_bytes),
            ("scratch of operations", self.scratch_bytes),
            ("inputs", self.input_bytes + self.staging_bytes),
            ("constants", self.constant_bytes),
            ("plans of other lengths", self.other_length_bytes),
            ("telemetry", self.telemetry_bytes),
            ("policies and their snapshots", self.policy_bytes),
            ("weights to watch tensors by", self.watch_bytes),
        ];
        let host = [
            ("snapshots, mapped", self.snapshot_bytes),
            ("gradients for other ranks", self.exchange_bytes),
            ("reading weights", self.host.loading_bytes),
            ("a checkpoint", self.host.checkpoint_bytes),
            ("and while it is made", self.host.staged_bytes),
        ];
        writeln!(f, "on the device                         MiB")?;
        write_rows(f, &device)?;
        write_rows(f, &[("all", self.total_bytes())])?;
        writeln!(f, "on the host")?;
        write_rows(f, &host)
    }
}

/// One line each, of those that are not 0.
fn write_rows(f: &mut fmt::Formatter<'_>, rows: &[(&str, u64)]) -> fmt::Result {
    for (what, bytes) in rows.iter().filter(|(_, bytes)| *bytes > 0) {
        writeln!(f, "  {what:<28} {:>10.2}", *bytes as f64 / f64::from(1 << 20))?;
    }
    Ok(())
}

impl<M: Model> TrainerBuilder<M> {
    /// What the run will need, part by part, before anything is allocated: on a device, or without
    /// one on a device with these limits. The bytes are those that [`Trainer::report`] tells once
    /// the trainer is built; for a language model, [`fitting`](TrainerBuilder::fitting) says what
    /// would make it fit.
    ///
    /// No API tells how much memory a device has free, so that the caller has to know. Drivers,
    /// pipelines and what else uses the device come on top.
    ///
    /// ```
    /// use evenkeel::gpu::MemoryLimits;
    /// use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
    /// use evenkeel::train::Trainer;
    ///
    /// let gpt = Gpt::new(GptConfig::gpt2(50_257, 1024, 12, 12, 768))?;
    /// let builder = Trainer::builder(LanguageModel { gpt, batch: 4, time: 1024 });
    /// let plan = builder.memory(MemoryLimits::DEFAULT)?;
    /// assert_eq!(plan.parameters, 124_439_808);
    /// // AdamW keeps two f32 of each.
    /// assert!(plan.moment_bytes >= 8 * 124_439_808);
    /// println!("{plan}");
    /// # Ok::<(), evenkeel::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`build`](Self::build), but for what only a device or the values of parameters show.
    ///
    /// [`Trainer::report`]: super::Trainer::report
    pub fn memory(&self, limits: impl Into<MemoryLimits>) -> Result<MemoryPlan> {
        self.memory_of(&self.model, &Variation::default(), limits.into())
    }

    /// The same of another model and with other settings.
    pub(crate) fn memory_of(
        &self,
        model: &M,
        variation: &Variation,
        limits: MemoryLimits,
    ) -> Result<MemoryPlan> {
        let mut settings = self.settings.clone();
        variation.apply(&mut settings)?;
        let given = self.parameters.as_ref().map(Parameters::layout);
        estimate::memory(&settings, model, given, limits)
    }
}
