//! Adds up what a trainer will hold, in the order in which it is built.

use super::{HostMemory, MemoryPlan};
use crate::error::Result;
use crate::gpu::{MemoryLimits, buffer_bytes};
use crate::graph::ParameterSpec;
use crate::kernel::{BlockFormat, WeightStorage};
use crate::plan::{ParameterLayout, PlanBytes, PlanOutline, SharedBytes, parameters};
use crate::record::to_u32;
use crate::step::{StepState, TensorState};
use crate::train::average::average_bytes;
use crate::train::builder::assembly::Outline;
use crate::train::builder::settings::Settings;
use crate::train::host_copy;
use crate::train::optimizers::SegmentTensor;
use crate::train::plans::{differentiate, graph_of, outputs};
use crate::train::ranks::exchange_bytes;
use crate::train::tensor_telemetry::ring_bytes;
use crate::train::{Model, TelemetryRing};

/// Bytes of the buffers that a step commits to, and of others that a checkpoint has.
struct Kept {
    /// By segment.
    weights: Vec<u64>,
    blocks: Vec<u64>,
    states: u64,
    /// By trained segment, then by moment.
    moments: Vec<Vec<u64>>,
    /// By trained segment, or none.
    averages: Vec<u64>,
    tensors: u64,
    /// The memory of each policy.
    memories: Vec<u64>,
}

pub(super) fn memory<M: Model>(
    settings: &Settings,
    model: &M,
    given: Option<&ParameterLayout>,
    limits: MemoryLimits,
) -> Result<MemoryPlan> {
    let outline = settings.outline(model, given, limits)?;
    let mut shared = SharedBytes::default();
    let plan = plan(&outline, limits, &mut shared)?;
    let Outline { graph, layout, .. } = &outline;
    let other_length_bytes = other_lengths(settings, model, layout, limits, &mut shared)?;
    let inputs = plan.used_inputs.iter().map(|&input| &graph.inputs()[input]);
    let staging = settings.staging_bytes(inputs).into_iter().map(buffer_bytes);

    let kept = kept(settings, layout);
    let (trained, frozen) = kept.weights.split_at(layout.trained_segments().len());
    let frozen_bytes = frozen.iter().chain(&kept.blocks).sum::<u64>();
    let (gradients, _) = settings.trained_bytes(layout);
    let gradients: Vec<_> = gradients.into_iter().map(buffer_bytes).collect();
    let count = |specs: &[ParameterSpec]| specs.iter().map(|spec| spec.shape.count()).sum();
    let [telemetry_bytes, watch_bytes] = telemetry(settings, layout, limits);
    let segments = trained.len();
    let staged = |trained_alone: bool| {
        let buffers = kept.checkpointed(trained_alone.then_some(segments));
        host_copy::copy_bytes(buffers, limits.largest_buffer)
    };
    let [staged_bytes, trained_staged_bytes] = [false, true].map(staged);
    let gathered = gathered_bytes(settings, layout);
    Ok(MemoryPlan {
        parameters: count(layout.trained()),
        frozen_parameters: count(layout.frozen()),
        parameter_bytes: trained.iter().sum::<u64>() + frozen_bytes + kept.states,
        frozen_bytes,
        copy_bytes: plan.copies,
        gradient_bytes: gradients.iter().sum::<u64>() + kept.states,
        moment_bytes: kept.moments.iter().flatten().sum(),
        average_bytes: kept.averages.iter().sum(),
        optimizer_bytes: settings.optimizer_bytes(layout),
        slot_bytes: plan.slots,
        scratch_bytes: plan.scratch,
        input_bytes: plan.inputs,
        constant_bytes: plan.constants,
        other_length_bytes,
        staging_bytes: staging.sum(),
        telemetry_bytes,
        policy_bytes: policy_bytes(settings, &kept, segments),
        watch_bytes,
        snapshot_bytes: if settings.snapshot_every > 0 { staged_bytes } else { 0 },
        exchange_bytes: exchange_bytes(settings, gradients),
        host: HostMemory {
            loading_bytes: parameters::loading_bytes(layout),
            checkpoint_bytes: checkpoint_bytes(settings, layout, layout.specs(), &kept),
            staged_bytes: staged_bytes + gathered,
            trained_checkpoint_bytes: checkpoint_bytes(settings, layout, layout.trained(), &kept),
            trained_staged_bytes: trained_staged_bytes + gathered,
        },
    })
}

/// What the plan of the longest sequences takes.
fn plan(outline: &Outline, limits: MemoryLimits, shared: &mut SharedBytes) -> Result<PlanBytes> {
    let Outline { graph, loss, layout } = outline;
    let outputs = &outputs(graph, *loss);
    shared.add(&PlanOutline { graph, outputs, layout, trains: true, limits })
}

/// Bytes of the rings of telemetry, and of the weights that watched steps keep.
fn telemetry(settings: &Settings, layout: &ParameterLayout, limits: MemoryLimits) -> [u64; 2] {
    let capacity = TelemetryRing::capacity(settings.ring, limits.largest_binding);
    let ring = buffer_bytes(TelemetryRing::bytes(capacity));
    if settings.watch_every == 0 {
        return [ring, 0];
    }
    let tensors = layout.trained().len();
    let of_tensors = buffer_bytes(ring_bytes(tensors, limits.largest_binding));
    let weights = layout.trained_segments().iter().map(|quads| buffer_bytes(16 * quads));
    [ring + of_tensors, weights.sum()]
}

/// What the plans of all lengths but the longest add.
fn other_lengths<M: Model>(
    settings: &Settings,
    model: &M,
    layout: &ParameterLayout,
    limits: MemoryLimits,
    shared: &mut SharedBytes,
) -> Result<u64> {
    let all = settings.lengths.as_ref().map_or(&[][..], |lengths| lengths.all());
    let mut bytes = 0;
    for &length in all.iter().rev().skip(1) {
        let (largest, weights) = (limits.largest_binding, layout.storage());
        let (mut graph, loss) = graph_of(settings, model, largest, weights, Some(length));
        differentiate(settings, &mut graph, loss)?;
        let plan = plan(&Outline { graph, loss, layout: layout.clone() }, limits, shared)?;
        bytes += plan.slots + plan.scratch + plan.inputs + plan.constants + plan.copies;
    }
    Ok(bytes)
}

fn kept(settings: &Settings, layout: &ParameterLayout) -> Kept {
    let (_, moments) = settings.trained_bytes(layout);
    let buffers = |all: Vec<u64>| -> Vec<u64> { all.into_iter().map(buffer_bytes).collect() };
    let tensors = layout.trained().len();
    let averages = settings.ema.map(|_| average_bytes(layout).collect()).unwrap_or_default();
    let memory = |words: Vec<u32>| buffer_bytes(4 * words.len() as u64);
    let policies = settings.policies.iter();
    Kept {
        weights: layout.weight_bytes().map(buffer_bytes).collect(),
        blocks: layout.block_bytes().iter().map(|&bytes| buffer_bytes(bytes)).collect(),
        states: buffer_bytes(layout.state_bytes()),
        moments: moments.into_iter().map(buffers).collect(),
        averages: buffers(averages),
        tensors: buffer_bytes((tensors * size_of::<TensorState>()) as u64),
        memories: policies.map(|policy| memory(policy.memory(to_u32(tensors)))).collect(),
    }
}

impl Kept {
    /// Sizes of the buffers that a checkpoint is made of, or one of so many trained segments alone.
    fn checkpointed(&self, trained_segments: Option<usize>) -> impl Iterator<Item = u64> {
        let flat = trained_segments.unwrap_or(self.weights.len());
        let blocks = if trained_segments.is_some() { &[][..] } else { &self.blocks };
        let weights = self.weights[..flat].iter().chain(blocks).copied().chain([self.states]);
        let state = buffer_bytes(size_of::<StepState>() as u64);
        let moments = self.moments.iter().flatten().chain(&self.averages).copied();
        weights.chain(moments).chain([state, self.tensors]).chain(self.memories.iter().copied())
    }

    /// Bytes that a step commits to, but for the memories of policies: as
    /// [`Committed::buffers`](crate::train::stability::Committed::buffers).
    fn committed(&self, trained_segments: usize) -> u64 {
        let states = if self.states > 16 { self.states } else { 0 };
        let flat = self.weights[..trained_segments].iter().chain(self.moments.iter().flatten());
        flat.chain(&self.averages).sum::<u64>() + states + self.tensors
    }
}

fn policy_bytes(settings: &Settings, kept: &Kept, trained_segments: usize) -> u64 {
    let committed = kept.committed(trained_segments);
    let beside = settings.policies.iter().map(|policy| policy.device_bytes(committed));
    kept.memories.iter().sum::<u64>() + beside.sum::<u64>()
}

/// Bytes of all that a checkpoint with these parameters holds, without names.
fn checkpoint_bytes(
    settings: &Settings,
    layout: &ParameterLayout,
    specs: &[ParameterSpec],
    kept: &Kept,
) -> u64 {
    let is_compensated = layout.storage() == WeightStorage::Bf16Kahan;
    let of_parameter = |spec: &ParameterSpec| match spec.shape.block_format() {
        Some(format) => blocks_bytes(spec, format).next_multiple_of(4),
        None => 4 * spec.shape.count() * (1 + usize::from(is_compensated)),
    };
    let parameters: usize = specs.iter().map(of_parameter).sum();
    let states: usize = layout.states().iter().map(|spec| 4 * spec.shape.count()).sum();
    let mut moments = 0;
    for segment in 0..layout.trained_segments().len() {
        let shares = settings.optimizer.moment_shares(&SegmentTensor::of_segment(layout, segment));
        moments += shares.iter().flatten().map(|share| 4 * share.shape.count()).sum::<usize>();
    }
    if settings.ema.is_some() {
        moments += layout.trained().iter().map(|spec| 4 * spec.shape.count()).sum::<usize>();
    }
    let tables = size_of::<StepState>() + layout.trained().len() * size_of::<TensorState>();
    (parameters + states + moments + tables) as u64 + kept.memories.iter().sum::<u64>()
}

/// Bytes of the moments of a rank, as they come for a checkpoint of a sharded optimizer; of the one
/// that keeps most.
fn gathered_bytes(settings: &Settings, layout: &ParameterLayout) -> u64 {
    let shards = settings.shards(layout);
    let ranks = (0..shards.ranks()).filter(|_| shards.is_cut());
    let of_rank = |rank| settings.moment_bytes(layout, &shards, rank).iter().flatten().sum();
    ranks.map(of_rank).max().unwrap_or(0)
}

/// Bytes of the blocks of a tensor as GGUF has them.
fn blocks_bytes(spec: &ParameterSpec, format: BlockFormat) -> usize {
    spec.shape.rows() * spec.shape.row_blocks() * format.bytes()
}
