//! The trainer: it submits steps, tells about them later, and evaluates.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use futures::future::join;

use super::average::Average;
use super::batch::Batch;
use super::builder::settings::Settings;
use super::checkpoint::HostState;
use super::evaluation::Evaluators;
use super::host_snapshot::HostSnapshots;
use super::model::Model;
use super::plans::Plans;
use super::ranks::Ranks;
use super::sequence::Sequence;
use super::stability::ActivePolicy;
use super::telemetry::{Telemetry, TelemetryRing};
use super::tensor_telemetry::{TensorTelemetry, TensorWatch};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Pacing, SubmitReport, Submitted, Timestamps};
use crate::kernel::Precision;
use crate::plan::{Parameters, Plan, Sinks};
use crate::record::StepBuffers;
use crate::step::StepInput;

/// Steps that may be submitted and not yet finished.
pub(super) const IN_FLIGHT: usize = 2;

/// Waits for all that is in flight.
pub(super) async fn finish(
    gpu: &Gpu,
    pacing: &mut Pacing,
    in_flight: &mut VecDeque<Submitted>,
) -> Result<()> {
    while let Some(oldest) = in_flight.pop_front() {
        pacing.finish(gpu, oldest).await?;
    }
    Ok(())
}

/// Brings the inputs of one of several microbatches from where they wait to where the plan reads
/// them.
pub(super) fn copy_inputs(
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

/// A model in training.
#[derive(Debug)]
pub struct Trainer<M: Model> {
    pub(super) gpu: Gpu,
    pub(super) model: Rc<M>,
    pub(super) settings: Rc<Settings>,
    pub(super) parameters: Parameters,
    pub(super) plans: Plans,
    /// The loss of a step, f32.
    pub(super) loss: wgpu::Buffer,
    pub(super) precision: Precision,
    pub(super) sinks: Sinks,
    /// The optimizer's moments by segment, each in the order of `Optimizer::moments`.
    pub(super) moments: Vec<Vec<wgpu::Buffer>>,
    pub(super) moment_names: &'static [&'static str],
    /// Of the trained weights, where it is kept.
    pub(super) average: Option<Average>,
    pub(super) step: StepBuffers,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub(super) tensors: wgpu::Buffer,
    pub(super) policies: Vec<ActivePolicy>,
    pub(super) policy_bytes: u64,
    /// Names of what the model observes; the plan's outputs behind the loss.
    pub(super) observations: Vec<String>,
    /// Scan, norm, policies, verdict, optimizer, commit, telemetry.
    pub(super) update: Vec<Dispatch>,
    pub(super) ring: TelemetryRing,
    pub(super) watch: Option<TensorWatch>,
    pub(super) microbatches: usize,
    /// Where the inputs of several microbatches wait, one buffer per input, then the step inputs.
    pub(super) staging: Vec<wgpu::Buffer>,
    pub(super) seed: u32,
    pub(super) attempted: u64,
    pub(super) learning_rate_factor: f32,
    /// Where the dispatches of a step are cut into submits.
    pub(super) pacing: Pacing,
    pub(super) in_flight: VecDeque<Submitted>,
    pub(super) host_snapshots: Option<HostSnapshots>,
    pub(super) evaluators: Evaluators,
    /// Who else takes each step.
    pub(super) ranks: Option<Ranks>,
    pub(super) error_if_nonfinite: bool,
    pub(super) gave_up: Option<Telemetry>,
}

impl<M: Model> Trainer<M> {
    /// Submits one step and returns; nothing is read back. It waits only while two earlier steps
    /// have not finished, and in the first step, which finds out how to keep each submit within the
    /// [budget]. The batch holds all microbatches of the step. The
    /// future is to be awaited to its end: what the first step submits may be a part of it.
    ///
    /// On several [ranks](super::ranks) the batch holds the microbatches of this rank, and the step
    /// waits for the others and for the device.
    ///
    /// # Errors
    /// What is wrong with the batch (then nothing was written), [`Error::Rank`](crate::Error::Rank)
    /// for what is wrong on another rank (then no rank took the step),
    /// [`Error::GaveUp`](crate::Error::GaveUp) once telemetry has shown it, or
    /// [`Error::DeviceLost`](crate::Error::DeviceLost): then [`rebuild`](Self::rebuild) goes on.
    ///
    /// [budget]: super::TrainerBuilder::submit_budget
    pub async fn step(&mut self, batch: &Batch) -> Result<()> {
        self.step_between(batch, None).await
    }

    /// A step, with each dispatch between two timestamps where there are some.
    pub(super) async fn step_between(
        &mut self,
        batch: &Batch,
        timestamps: Option<&Timestamps>,
    ) -> Result<()> {
        if self.ranks.is_some() {
            return self.step_together(batch).await;
        }
        let (index, inputs) = self.checked_plan(batch).await?;
        let plan = self.plans.of(index);
        let sequence = Sequence::new(plan, &self.update, self.watch.as_ref(), self.microbatches);
        self.pacing.turn_to(index);
        let list = sequence.of_step(self.is_watched());
        // What is to be measured has the device to itself.
        let most = if self.pacing.is_measured(list.clone()) { IN_FLIGHT } else { 1 };
        while self.in_flight.len() >= most {
            let oldest = self.in_flight.pop_front().expect("not empty");
            self.pacing.finish(&self.gpu, oldest).await?;
        }
        self.write_inputs(index, &inputs);
        let host = HostState { steps: self.attempted + 1, ..self.host_state() };
        let snapshots = self.host_snapshots.as_mut();
        let copy = snapshots.and_then(|snapshots| snapshots.copy_after(host.steps));
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: Range<usize>| {
            let begin = |encoder: &mut wgpu::CommandEncoder, microbatch| {
                copy_inputs(encoder, plan, &self.step, &self.staging, microbatch);
            };
            match timestamps {
                None => sequence.encode(&self.gpu, encoder, piece.clone(), begin),
                Some(stamps) => sequence.stamp(&self.gpu, encoder, piece.clone(), begin, stamps),
            }
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
        self.plans.ran(index);
        self.attempted += 1;
        Ok(())
    }

    /// Whether tensors are measured in the next step.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_watched(self.attempted))
    }

    /// The plan for a batch, and what a step of it gets.
    pub(super) async fn checked_plan(&mut self, batch: &Batch) -> Result<(usize, Vec<Vec<u8>>)> {
        self.gpu.check()?;
        if let Some(last) = &self.gave_up {
            return Err(last.gave_up_error());
        }
        let index = self.plan_for(batch).await?;
        Ok((index, self.inputs_of(index, batch)?))
    }

    /// The inputs of a plan out of a batch.
    pub(super) fn inputs_of(&self, index: usize, batch: &Batch) -> Result<Vec<Vec<u8>>> {
        let inputs = self.plans.of(index).inputs.iter();
        inputs.map(|input| batch.bytes(&input.spec, self.microbatches)).collect()
    }

    /// Writes a step's inputs to where the plan reads them, or those of several microbatches to
    /// where they wait.
    pub(super) fn write_inputs(&self, index: usize, inputs: &[Vec<u8>]) {
        let steps: Vec<_> = (0..self.microbatches).map(|m| self.step_input(m as u32)).collect();
        let steps: &[u8] = bytemuck::cast_slice(&steps);
        let all = inputs.iter().map(Vec::as_slice).chain([steps]);
        if self.microbatches == 1 {
            let buffers = self.plans.of(index).inputs.iter().map(|input| &input.buffer);
            for (buffer, bytes) in buffers.chain([&self.step.input]).zip(all) {
                self.gpu.write(buffer, 0, bytes);
            }
        } else {
            for (buffer, bytes) in self.staging.iter().zip(all) {
                self.gpu.write(buffer, 0, bytes);
            }
        }
    }

    pub(super) fn step_input(&self, microbatch: u32) -> StepInput {
        StepInput {
            seed: self.seed,
            step: self.attempted as u32,
            microbatch,
            learning_rate_factor: self.learning_rate_factor,
            first_microbatch: self.settings.first_microbatch(),
        }
    }

    /// The steps since the last call, as far as the ring still holds them (1,024 by default).
    /// Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost); with
    /// [`TrainerBuilder::error_if_nonfinite`] also those of [`Telemetry::error_if_nonfinite`], and
    /// the records of this call are gone. To keep them, ask each one.
    ///
    /// [`TrainerBuilder::error_if_nonfinite`]: super::TrainerBuilder::error_if_nonfinite
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
    ///
    /// [`TrainerBuilder::watch_tensors`]: super::TrainerBuilder::watch_tensors
    pub async fn tensor_telemetry(&mut self) -> Result<Vec<TensorTelemetry>> {
        let Some(watch) = &mut self.watch else { return Ok(Vec::new()) };
        let finished = finish(&self.gpu, &mut self.pacing, &mut self.in_flight);
        let (finished, records) = join(finished, watch.read(&self.gpu, self.attempted)).await;
        finished?;
        records
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

    /// The recorded forward and backward pass; of several lengths that of the longest.
    pub fn plan(&self) -> &Plan {
        self.plans.first()
    }

    /// The dispatches of a step in order: forward, backward, and the update. With gradient
    /// accumulation those of the first microbatch and the update.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.plan().first.iter().chain(&self.update)
    }

    /// How a step is split into submits, as far as it was measured, of several lengths a step like the
    /// last: one, where it fits the
    /// [budget](super::TrainerBuilder::submit_budget).
    pub fn submits(&self) -> SubmitReport {
        let sequence = self.sequence(self.pacing.list());
        self.pacing.report(sequence.of_step(false), |index| sequence.name(index))
    }
}
