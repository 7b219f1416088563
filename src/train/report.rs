//! What a trainer takes: memory and dispatches.

use super::host_snapshot::HostSnapshots;
use super::ranks::Ranks;
use super::tensor_telemetry::TensorWatch;
use super::{Model, Trainer};
use crate::graph::ParameterSpec;

/// What a trainer holds on the device, in bytes, and what a step dispatches. Tables of chunks and
/// uniform blocks, a few bytes for each tensor and dispatch, are not counted.
/// [`TrainerBuilder::memory`](super::TrainerBuilder::memory) tells the bytes before anything is
/// built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerReport {
    /// Trained elements.
    pub parameters: usize,
    /// Trained tensors.
    pub tensors: usize,
    /// Elements of frozen tensors.
    pub frozen_parameters: usize,
    /// Frozen tensors.
    pub frozen_tensors: usize,
    /// Weights, trained and frozen, and states.
    pub parameter_bytes: u64,
    /// The frozen weights among them.
    pub frozen_bytes: u64,
    /// Gradients and staged states.
    pub gradient_bytes: u64,
    /// The optimizer's moments; of one that is
    /// [sharded](super::TrainerBuilder::shard_optimizer_state), those of this rank.
    pub moment_bytes: u64,
    /// The [average](super::Ema) of the trained weights.
    pub average_bytes: u64,
    /// What the optimizer has in hand within a step ([`Muon`](super::Muon)).
    pub optimizer_bytes: u64,
    /// Activations, inputs and constants; of all [lengths](super::TrainerBuilder::lengths) that had
    /// a step.
    pub activation_bytes: u64,
    /// Copies of the weights in another precision than that of their storage.
    pub copy_bytes: u64,
    /// What policies keep: memories, snapshots.
    pub policy_bytes: u64,
    /// The copy of the weights that watched steps keep.
    pub watch_bytes: u64,
    /// The inputs of all microbatches of a step, where it has several.
    pub staging_bytes: u64,
    /// The rings of telemetry: of steps, and of tensors where these are watched.
    pub telemetry_bytes: u64,
    /// Copies for [host snapshots](super::TrainerBuilder::host_snapshots), in memory that the host
    /// maps: not counted in the total.
    pub snapshot_bytes: u64,
    /// Where gradients wait for other [ranks](super::ranks), in memory that the host maps: not
    /// counted in the total.
    pub exchange_bytes: u64,
    /// Dispatches of forward and backward of one microbatch.
    pub model_dispatches: usize,
    /// Dispatches of scan, verdict, optimizer, commit and telemetry.
    pub update_dispatches: usize,
    /// The plan's own report; of several that of the longest sequences.
    pub plan: crate::plan::Report,
}

impl TrainerReport {
    /// All bytes on the device.
    pub fn total_bytes(&self) -> u64 {
        self.parameter_bytes
            + self.copy_bytes
            + self.watch_bytes
            + self.staging_bytes
            + self.telemetry_bytes
            + self.gradient_bytes
            + self.moment_bytes
            + self.average_bytes
            + self.optimizer_bytes
            + self.activation_bytes
            + self.policy_bytes
    }
}

impl<M: Model> Trainer<M> {
    /// Memory and dispatches.
    pub fn report(&self) -> TrainerReport {
        let size = wgpu::Buffer::size;
        let count = |specs: &[ParameterSpec]| specs.iter().map(|spec| spec.shape.count()).sum();
        let reports = || self.plans.all().map(|(_, plan)| &plan.report);
        TrainerReport {
            parameters: count(self.parameters.trained()),
            tensors: self.parameters.trained().len(),
            frozen_parameters: count(self.parameters.frozen()),
            frozen_tensors: self.parameters.frozen().len(),
            parameter_bytes: self.parameters.bytes(),
            frozen_bytes: self.parameters.frozen_bytes(),
            gradient_bytes: self.sinks.gradients.iter().map(size).sum::<u64>()
                + self.sinks.staged.size(),
            moment_bytes: self.moments.iter().flatten().map(size).sum(),
            average_bytes: self.averages().iter().map(size).sum(),
            optimizer_bytes: self.settings.optimizer_bytes(self.parameters.layout()),
            activation_bytes: reports().map(|r| r.slot_bytes + r.leaf_bytes).sum(),
            copy_bytes: reports().map(|report| report.copy_bytes).sum(),
            policy_bytes: self.policy_bytes,
            watch_bytes: self.watch.as_ref().map_or(0, TensorWatch::bytes),
            staging_bytes: self.staging.iter().map(size).sum(),
            telemetry_bytes: self.ring.buffer.size()
                + self.watch.as_ref().map_or(0, TensorWatch::ring_bytes),
            snapshot_bytes: self.host_snapshots.as_ref().map_or(0, HostSnapshots::bytes),
            exchange_bytes: self.ranks.as_ref().map_or(0, Ranks::bytes),
            model_dispatches: self.plans.first().first.len(),
            update_dispatches: self.update.len(),
            plan: self.plans.first().report.clone(),
        }
    }
}
