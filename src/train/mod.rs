//! Training: a model, an optimizer and the rules that keep a run stable, replayed step by step.
//!
//! [`Trainer::step`] writes the batch, encodes the recorded dispatches and submits them once; it
//! reads nothing back. Whether the step counted was decided on the device by one verdict, and
//! [`Trainer::telemetry`] tells about it some steps later. [`Predictor`] runs a graph forward
//! only.

mod batch;
mod builder;
mod checkpoint;
mod chunk_tables;
mod clip;
mod diagnose;
mod host_copy;
mod host_snapshot;
mod loss_scale;
mod norm;
pub mod optimizers;
mod predictor;
mod rebuild;
mod schedule;
mod sequence;
pub mod stability;
mod telemetry;
mod tensor_rules;
mod tensor_telemetry;
mod update;

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

pub use batch::{Batch, Data};
use builder::Settings;
pub use builder::TrainerBuilder;
pub use checkpoint::Checkpoint;
use checkpoint::HostState;
pub use clip::{Clip, ELEMENT_GUARD};
pub use diagnose::{Diagnosis, ValueKind, ValueReport};
use host_snapshot::HostSnapshots;
pub use loss_scale::{DynamicLossScale, LossScale, Refill};
pub use norm::Norm;
pub use optimizers::{
    Adafactor, Adam, AdamAtan2, AdamW, Lion, Muon, MuonScale, Optimizer, Sgd, StableAdamW,
};
pub use predictor::Predictor;
pub use schedule::Schedule;
use sequence::Sequence;
use stability::ActivePolicy;
pub use stability::{
    AdaGc, AdaptiveGradientClip, AutoClip, ClipBlockRms, ClipPerTensor, Policy, Reaction,
    SnapshotRing, SpikeGuard, ZClip, ZClipBound,
};
pub use telemetry::Telemetry;
use telemetry::TelemetryRing;
use tensor_telemetry::TensorWatch;
pub use tensor_telemetry::{TensorTelemetry, group_norms};

use futures::future::join;

use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Pacing, SubmitReport, Submitted};
use crate::graph::{Graph, ParameterSpec, Value};
use crate::kernel::Precision;
pub use crate::kernels::IGNORE;
use crate::plan::{Parameters, Plan, Sinks, parameters};
use crate::record::StepBuffers;
use crate::step::{StepInput, StepState, TensorState};

/// Steps that may be submitted and not yet finished.
const IN_FLIGHT: usize = 2;

/// What a model gives a trainer.
#[derive(Clone, Copy, Debug)]
pub struct ModelOutput {
    /// One f32 number to be minimised: in a step of several microbatches, the mean of theirs. A
    /// [cross-entropy](Graph::cross_entropy) in it is the mean over the targets of all.
    pub loss: Value,
    /// What the model predicts: logits, usually.
    pub prediction: Value,
}

/// Something that can be trained: it builds its graph, with inputs, parameters and a loss.
///
/// The graph says whether it is for training or evaluation; build both from the same code, so
/// that parameter names agree. Closures `Fn(&mut Graph) -> ModelOutput` are models.
pub trait Model {
    /// Builds the model in `graph`.
    fn build(&self, graph: &mut Graph) -> ModelOutput;

    /// What the model does with its tensors that their names and shapes do not show, in words: how
    /// many heads, say, but nothing that may change within a run, such as dropout. A checkpoint of
    /// other words is refused. Empty, the default, says nothing.
    fn configuration(&self) -> String {
        String::new()
    }
}

impl<F: Fn(&mut Graph) -> ModelOutput> Model for F {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        self(graph)
    }
}

/// Waits for all that is in flight.
async fn finish(gpu: &Gpu, pacing: &mut Pacing, in_flight: &mut VecDeque<Submitted>) -> Result<()> {
    while let Some(oldest) = in_flight.pop_front() {
        pacing.finish(gpu, oldest).await?;
    }
    Ok(())
}

/// Brings the inputs of one of several microbatches from where they wait to where the plan reads
/// them.
fn copy_inputs(
    encoder: &mut wgpu::CommandEncoder,
    plan: &Plan,
    step: &StepBuffers,
    staging: &[wgpu::Buffer],
    microbatch: usize,
) {
    let inputs = plan.inputs.iter().map(|i| (&i.buffer, i.spec.shape.bytes()));
    let all = inputs.chain([(&step.input, size_of::<StepInput>() as u64)]);
    for ((buffer, bytes), staging) in all.zip(staging) {
        encoder.copy_buffer_to_buffer(staging, bytes * microbatch as u64, buffer, 0, bytes);
    }
}

/// What a trainer holds on the device, in bytes, and what a step dispatches.
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
    /// The optimizer's moments.
    pub moment_bytes: u64,
    /// Activations, inputs and constants.
    pub activation_bytes: u64,
    /// Copies of the weights in another precision than that of their storage.
    pub copy_bytes: u64,
    /// What policies keep: memories, snapshots.
    pub policy_bytes: u64,
    /// The copy of the weights that watched steps keep.
    pub watch_bytes: u64,
    /// Copies for [host snapshots](TrainerBuilder::host_snapshots), in memory that the host maps:
    /// not counted in the total.
    pub snapshot_bytes: u64,
    /// Dispatches of forward and backward of one microbatch.
    pub model_dispatches: usize,
    /// Dispatches of scan, verdict, optimizer, commit and telemetry.
    pub update_dispatches: usize,
    /// The plan's own report.
    pub plan: crate::plan::Report,
}

impl TrainerReport {
    /// All bytes on the device.
    pub fn total_bytes(&self) -> u64 {
        self.parameter_bytes
            + self.copy_bytes
            + self.watch_bytes
            + self.gradient_bytes
            + self.moment_bytes
            + self.activation_bytes
            + self.policy_bytes
    }
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer<M: Model> {
    gpu: Gpu,
    model: Rc<M>,
    settings: Rc<Settings>,
    parameters: Parameters,
    plan: Plan,
    precision: Precision,
    sinks: Sinks,
    /// The optimizer's moments by segment, each in the order of [`Optimizer::moments`].
    moments: Vec<Vec<wgpu::Buffer>>,
    moment_names: &'static [&'static str],
    step: StepBuffers,
    /// (tensors) [`TensorState`]
    tensors: wgpu::Buffer,
    policies: Vec<ActivePolicy>,
    policy_bytes: u64,
    /// Names of what the model observes; the plan's outputs behind the loss.
    observations: Vec<String>,
    /// Scan, norm, policies, verdict, optimizer, commit, telemetry.
    update: Vec<Dispatch>,
    ring: TelemetryRing,
    watch: Option<TensorWatch>,
    microbatches: usize,
    /// Where the inputs of several microbatches wait, one buffer per input, then the step inputs.
    staging: Vec<wgpu::Buffer>,
    seed: u32,
    attempted: u64,
    learning_rate_factor: f32,
    /// Where the dispatches of a step are cut into submits.
    pacing: Pacing,
    in_flight: VecDeque<Submitted>,
    host_snapshots: Option<HostSnapshots>,
    evaluator: Option<Predictor>,
    error_if_nonfinite: bool,
    gave_up: Option<Telemetry>,
}

impl<M: Model> Trainer<M> {
    /// Starts to describe a training run of `model`.
    pub fn builder(model: M) -> TrainerBuilder<M> {
        TrainerBuilder::new(model)
    }

    /// Submits one step and returns; nothing is read back. It waits only while two earlier steps
    /// have not finished, and in the first step, which finds out how to keep each submit within the
    /// [budget](TrainerBuilder::submit_budget). The batch holds all microbatches of the step. The
    /// future is to be awaited to its end: what the first step submits may be a part of it.
    ///
    /// # Errors
    /// What is wrong with the batch (then nothing was written),
    /// [`Error::GaveUp`](crate::Error::GaveUp) once telemetry has shown it, or
    /// [`Error::DeviceLost`](crate::Error::DeviceLost): then [`rebuild`](Self::rebuild) goes on.
    pub async fn step(&mut self, batch: &Batch) -> Result<()> {
        self.gpu.check()?;
        if let Some(last) = &self.gave_up {
            return Err(last.gave_up_error());
        }
        let inputs = self.plan.inputs.iter().map(|i| batch.bytes(&i.spec, self.microbatches));
        let inputs: Vec<_> = inputs.collect::<Result<_>>()?;
        let sequence =
            Sequence::new(&self.plan, &self.update, self.watch.as_ref(), self.microbatches);
        let watched = self.watch.as_ref().is_some_and(|watch| watch.is_watched(self.attempted));
        let list = sequence.of_step(watched);
        // What is to be measured has the device to itself.
        let most = if self.pacing.is_measured(list.clone()) { IN_FLIGHT } else { 1 };
        while self.in_flight.len() >= most {
            let oldest = self.in_flight.pop_front().expect("not empty");
            self.pacing.finish(&self.gpu, oldest).await?;
        }
        self.write_inputs(&inputs);
        let host = HostState { steps: self.attempted + 1, ..self.host_state() };
        let snapshots = self.host_snapshots.as_mut();
        let copy = snapshots.and_then(|snapshots| snapshots.copy_after(host.steps));
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: Range<usize>| {
            let begin = |encoder: &mut wgpu::CommandEncoder, microbatch| {
                copy_inputs(encoder, &self.plan, &self.step, &self.staging, microbatch);
            };
            sequence.encode(&self.gpu, encoder, piece.clone(), begin);
            if let Some(copy) = copy.filter(|_| piece.end == list.end) {
                copy.encode(encoder);
            }
        };
        let copies = copy.is_some();
        let submitted = self.pacing.submit(&self.gpu, list.clone(), encode).await?;
        self.in_flight.push_back(submitted);
        if let Some(snapshots) = self.host_snapshots.as_mut().filter(|_| copies) {
            snapshots.copied(&self.gpu, host);
        }
        self.attempted += 1;
        Ok(())
    }

    /// Writes a step's inputs to where the plan reads them, or those of several microbatches to
    /// where they wait.
    fn write_inputs(&self, inputs: &[Vec<u8>]) {
        let steps: Vec<_> = (0..self.microbatches).map(|m| self.step_input(m as u32)).collect();
        let steps: &[u8] = bytemuck::cast_slice(&steps);
        let all = inputs.iter().map(Vec::as_slice).chain([steps]);
        if self.microbatches == 1 {
            let buffers = self.plan.inputs.iter().map(|input| &input.buffer);
            for (buffer, bytes) in buffers.chain([&self.step.input]).zip(all) {
                self.gpu.write(buffer, 0, bytes);
            }
        } else {
            for (buffer, bytes) in self.staging.iter().zip(all) {
                self.gpu.write(buffer, 0, bytes);
            }
        }
    }

    fn step_input(&self, microbatch: u32) -> StepInput {
        StepInput {
            seed: self.seed,
            step: self.attempted as u32,
            microbatch,
            learning_rate_factor: self.learning_rate_factor,
        }
    }

    /// The steps since the last call, as far as the ring still holds them (1,024 by default).
    /// Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost); with
    /// [`TrainerBuilder::error_if_nonfinite`] also those of [`Telemetry::error_if_nonfinite`], and
    /// the records of this call are gone. To keep them, ask each one.
    pub async fn telemetry(&mut self) -> Result<Vec<Telemetry>> {
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight);
        let (finished, records) = join(finished, self.ring.read(&self.gpu, self.attempted)).await;
        finished?;
        let records = records?;
        if self.gave_up.is_none() {
            self.gave_up = records.iter().find(|record| record.gave_up.is_some()).copied();
        }
        if self.error_if_nonfinite {
            records.iter().try_for_each(Telemetry::error_if_nonfinite)?;
        }
        Ok(records)
    }

    /// What each tensor held in the watched steps since the last call, as far as the ring still
    /// holds them (64 steps); see [`TrainerBuilder::watch_tensors`]. Steps in order, in each the
    /// trained tensors in the order of [`Parameters::trained`]. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn tensor_telemetry(&mut self) -> Result<Vec<TensorTelemetry>> {
        let Some(watch) = &mut self.watch else { return Ok(Vec::new()) };
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight);
        let (finished, records) = join(finished, watch.read(&self.gpu, self.attempted)).await;
        finished?;
        records
    }

    /// The loss on a batch of one microbatch, in evaluation mode: no dropout, running statistics.
    ///
    /// # Errors
    /// As [`Predictor::run`].
    pub async fn evaluate(&mut self, batch: &Batch) -> Result<f32> {
        self.evaluate_all(std::slice::from_ref(batch)).await
    }

    /// The loss on several batches of one microbatch each, as if they were one: a cross-entropy is
    /// the mean over the targets of all, which the mean of their losses is only where all have
    /// equally many.
    ///
    /// # Errors
    /// As [`Predictor::mean`].
    pub async fn evaluate_all(&mut self, batches: &[Batch]) -> Result<f32> {
        let evaluator = match self.evaluator.take() {
            Some(evaluator) => evaluator,
            None => {
                let build = |graph: &mut Graph| vec![self.model.build(graph).loss];
                let budget = self.pacing.budget();
                Predictor::in_precision(&self.gpu, &self.parameters, self.precision, build)
                    .await?
                    .with_submit_budget(budget)
            }
        };
        // What is measured is not to wait for steps before it.
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await;
        let outputs = evaluator.mean(batches).await;
        self.evaluator = Some(evaluator);
        finished?;
        Ok(outputs?[0][0] as f32)
    }

    /// Multiplies the scheduled learning rate from the next step on.
    ///
    /// # Panics
    /// For a factor that is negative, NaN or Inf.
    #[track_caller]
    pub fn set_learning_rate_factor(&mut self, factor: f32) {
        assert!(factor >= 0.0 && factor.is_finite(), "a learning-rate factor of {factor}");
        self.learning_rate_factor = factor;
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The parameters, trained and frozen, and states, by name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Seed of the run: what the builder was given, or what came with the checkpoint that was
    /// restored. For whoever draws batches with it.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Steps submitted so far, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.attempted
    }

    /// Storage of activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Microbatches per step.
    pub fn microbatches(&self) -> usize {
        self.microbatches
    }

    /// The recorded forward and backward pass.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The dispatches of a step in order: forward, backward, and the update. With gradient
    /// accumulation those of the first microbatch and the update.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.plan.first.iter().chain(&self.update)
    }

    /// How a step is split into submits, as far as it was measured: one, where it fits the
    /// [budget](TrainerBuilder::submit_budget).
    pub fn submits(&self) -> SubmitReport {
        let sequence =
            Sequence::new(&self.plan, &self.update, self.watch.as_ref(), self.microbatches);
        self.pacing.report(sequence.of_step(false), |index| sequence.name(index))
    }

    /// The gradient of a parameter as the last step left it: scaled by the loss scale, not yet
    /// clipped; dense. Empty for a frozen parameter and for a state, which have none. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::UnknownName`](crate::Error::UnknownName),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.parameters.find(name)?;
        let index = self.parameters.trained().iter().position(|spec| spec.name == name);
        let Some(index) = index else { return Ok(Vec::new()) };
        let element = crate::graph::Element::F32;
        let slot = self.parameters.slot_in(&self.sinks.gradients, index, element);
        parameters::read_slot(&self.gpu, &slot).await
    }

    /// What the model observed in the last step, over its microbatches: (name, elements), as by
    /// [`Graph::observe`]: largest attention logits and entropies, say. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn observations(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut observed = Vec::with_capacity(self.observations.len());
        for (name, slot) in self.observations.iter().zip(&self.plan.outputs[1..]) {
            observed.push((name.clone(), parameters::read_slot(&self.gpu, slot).await?));
        }
        Ok(observed)
    }

    /// The device's own account of the run. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn state(&self) -> Result<StepState> {
        Ok(self.gpu.read(&self.step.state, 0, 1).await?[0])
    }

    /// Each trained tensor as the optimizer sees it, in the order of [`Parameters::trained`]. Waits
    /// for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn tensor_states(&self) -> Result<Vec<TensorState>> {
        self.gpu.read(&self.tensors, 0, self.parameters.trained().len()).await
    }

    /// Every byte that a step commits: weights (frozen ones, which it does not change, included),
    /// moments, states and the tensors' clocks, in this
    /// order. What the device counts beside them is in [`state`](Self::state). Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn committed_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let weights = self.parameters.weights().iter();
        let moments = self.moments.iter().flatten();
        let states = [self.parameters.committed()];
        for buffer in weights.chain(moments).chain(states) {
            bytes.extend(self.gpu.read::<u8>(buffer, 0, buffer.size() as usize).await?);
        }
        for tensor in self.tensor_states().await? {
            bytes.extend(bytemuck::bytes_of(&[tensor.bias_correction1, tensor.bias_correction2]));
            bytes.extend(bytemuck::bytes_of(&[tensor.steps, tensor.reset]));
        }
        Ok(bytes)
    }

    /// Memory and dispatches.
    pub fn report(&self) -> TrainerReport {
        let size = wgpu::Buffer::size;
        let count = |specs: &[ParameterSpec]| specs.iter().map(|spec| spec.shape.count()).sum();
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
            activation_bytes: self.plan.report.slot_bytes + self.plan.report.leaf_bytes,
            copy_bytes: self.plan.report.copy_bytes,
            policy_bytes: self.policy_bytes,
            watch_bytes: self.watch.as_ref().map_or(0, TensorWatch::bytes),
            snapshot_bytes: self.host_snapshots.as_ref().map_or(0, HostSnapshots::bytes),
            model_dispatches: self.plan.first.len(),
            update_dispatches: self.update.len(),
            plan: self.plan.report.clone(),
        }
    }
}
