//! What follows the gradients in every step: scan, verdict, optimizer, commit, telemetry. The
//! number of these dispatches depends on the segments of the flat buffers, not on the tensors.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use super::chunk_tables::ChunkTables;
use super::optimizers::{Segment, SegmentTensor};
use super::schedule::RateTable;
use super::stability::{ActivePolicy, Committed, Judgement};
use super::{Clip, LossScale, Norm, Optimizer, Refill, Schedule, TelemetryRing};
use crate::error::{Error, Result};
use crate::gpu::{Dispatch, Gpu};
use crate::graph::{Graph, Value};
use crate::kernel::WeightStorage;
use crate::kernels::{
    Commit, CommitParams, LoadWeights, LoadWeightsParams, OVERFLOW_LARGEST, OVERFLOW_NONFINITE,
    Telemetry, TelemetryParams, TensorNorm, Verdict, VerdictParams,
};
use crate::plan::{Parameters, Sinks, parameters, parts};
use crate::record::{Recorder, Slot, StepBuffers, to_u32};
use crate::step::ScanPartial;

/// What an update is recorded from.
pub(super) struct Update<'a> {
    pub gpu: &'a Gpu,
    pub parameters: &'a Parameters,
    pub sinks: &'a Sinks,
    /// By trained segment, then by moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    pub step: &'a StepBuffers,
    /// (trained tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    pub optimizer: &'a dyn Optimizer,
    pub norm: Norm,
    pub clip: Clip,
    pub loss_scale: LossScale,
    /// Skipped steps in a row; 0 for never.
    pub give_up_after: u32,
    pub policies: &'a [ActivePolicy],
    pub schedule: &'a Schedule,
    pub loss: &'a wgpu::Buffer,
    pub ring: &'a TelemetryRing,
    /// Whose layers act after the update.
    pub graph: &'a Graph,
    /// Where the plan put its values.
    pub values: &'a HashMap<Value, Slot>,
}

impl Update<'_> {
    /// Records the dispatches, once the initial parameters are found to be finite.
    pub async fn record(&self) -> Result<Vec<Dispatch>> {
        let (gpu, step, parameters) = (self.gpu, self.step, self.parameters);
        let mut recorder = Recorder::new(gpu, step);
        self.check_parameters(&mut recorder).await?;
        self.clear_gradients();

        // For whatever looks at weights or changes them.
        recorder.set_variant(parameters.storage());
        let scan = Scan::new(gpu, parameters, self.norm);
        let layouts: Vec<_> = (0..parameters.trained_segments().len())
            .map(|i| SegmentTensor::of_segment(parameters, i))
            .collect();
        let segments: Vec<_> =
            layouts.iter().enumerate().map(|(i, layout)| self.segment(&scan, i, layout)).collect();
        for active in self.policies {
            for segment in &segments {
                active.policy.before_scan(&mut recorder, segment);
            }
        }
        scan.record(&mut recorder, &self.sinks.gradients, self.overflow_bits());
        let pass = ScanPass {
            partials: &scan.tables.partials,
            partial_count: scan.tables.partial_count,
            tensors: self.tensors,
            tensor_count: to_u32(parameters.trained().len()),
        };
        self.norm.record(&mut recorder, &pass, self.clip.max_norm());
        self.judge(&mut recorder, &scan);
        let schedule = self.schedule.table(self.optimizer.learning_rate())?;
        recorder.dispatch(&Verdict {
            params: self.verdict_params(&schedule),
            input: step.input.as_entire_buffer_binding(),
            learning_rates: upload_rates(gpu, &schedule).await?.as_entire_buffer_binding(),
            loss: self.loss.as_entire_buffer_binding(),
            staged: self.sinks.staged.as_entire_buffer_binding(),
            tensors: self.tensors.as_entire_buffer_binding(),
            state: step.state.as_entire_buffer_binding(),
        });
        for segment in &segments {
            self.optimizer.record(&mut recorder, segment);
        }
        self.record_layers(&mut recorder)?;
        self.commit(&mut recorder)?;
        let what = "what policies keep beside their memory";
        parameters::allocate(gpu, what, self.policy_bytes(), || self.after_update(&mut recorder))
            .await?;
        recorder.dispatch(&Telemetry {
            params: TelemetryParams { capacity: self.ring.capacity },
            input: step.input.as_entire_buffer_binding(),
            state: step.state.as_entire_buffer_binding(),
            loss: self.loss.as_entire_buffer_binding(),
            ring: self.ring.buffer.as_entire_buffer_binding(),
        });
        Ok(recorder.take())
    }

    /// Records what policies do between norm and verdict.
    fn judge(&self, recorder: &mut Recorder<'_>, scan: &Scan) {
        let specs = self.parameters.trained();
        let elements: Vec<_> = specs.iter().map(|spec| spec.shape.count()).collect();
        let needs_norms = self.policies.iter().any(|active| active.policy.needs_tensor_norms());
        let tensor_norms = needs_norms.then(|| scan.record_tensor_norms(recorder));
        for active in self.policies {
            let judgement = Judgement {
                loss: self.loss,
                tensors: self.tensors,
                tensor_count: to_u32(specs.len()),
                elements: &elements,
                tensor_norms: tensor_norms.as_ref(),
                memory: &active.memory,
            };
            active.policy.judge(recorder, &judgement);
        }
    }

    /// Records the commit of what is staged. States that the graph does not stage stay as they are.
    fn commit(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let (parameters, staged) = (self.parameters, &self.sinks.staged);
        let (_, index_of) = parameters.index_of(self.graph)?;
        let indices: BTreeSet<_> = self.graph.staged().iter().map(|&(s, _)| index_of[s]).collect();
        let state = self.step.state.as_entire_buffer_binding();
        if indices.len() == parameters.states().len() && !indices.is_empty() {
            let params = CommitParams { quads: self.staged_quads() };
            let [staged, committed] =
                [staged, parameters.committed()].map(wgpu::Buffer::as_entire_buffer_binding);
            recorder.dispatch(&Commit { params, state, staged, committed });
            return Ok(());
        }
        for index in indices {
            let [staged, committed] =
                [staged, parameters.committed()].map(|flat| parameters.state_slot_in(flat, index));
            recorder.dispatch(&Commit {
                params: CommitParams { quads: to_u32(staged.shape.quads()) },
                state: state.clone(),
                staged: staged.binding(),
                committed: committed.binding(),
            });
        }
        Ok(())
    }

    /// Records what policies do once the step is committed or skipped.
    fn after_update(&self, recorder: &mut Recorder<'_>) {
        for active in self.policies {
            active.policy.after_update(recorder, &self.committed(&active.memory));
        }
    }

    fn committed<'s>(&'s self, memory: &'s wgpu::Buffer) -> Committed<'s> {
        Committed {
            weights: self.parameters.trained_weights(),
            moments: self.moments,
            states: self.parameters.committed(),
            tensors: self.tensors,
            memory,
        }
    }

    /// Bytes of all policies on the device beside their memories.
    pub fn policy_bytes(&self) -> u64 {
        let bytes = self.policies.iter().map(|active| {
            let committed = self.committed(&active.memory).buffers().map(wgpu::Buffer::size);
            active.policy.device_bytes(committed.sum())
        });
        bytes.sum()
    }

    /// Fails if a parameter, trained or frozen, starts as NaN or Inf, and says which.
    async fn check_parameters(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let (gpu, parameters) = (self.gpu, self.parameters);
        let tables = ChunkTables::of_all(gpu, parameters, Norm::L2.partial_bytes());
        let scan = Scan { norm: Norm::L2, tables };
        if parameters.storage() == WeightStorage::F32 {
            scan.record(recorder, parameters.weights(), OVERFLOW_NONFINITE);
        } else {
            // In f32 one after the other, where the gradients will be or in a buffer for the largest.
            let frozen = parameters.segments().iter().skip(self.sinks.gradients.len());
            let bytes = 16 * frozen.max().copied().unwrap_or(0);
            let what = "frozen weights in f32";
            let values =
                parameters::allocate(gpu, what, bytes, || gpu.buffer("weights in f32", bytes))
                    .await?;
            for (index, weight) in parameters.weights().iter().enumerate() {
                let values = self.sinks.gradients.get(index).unwrap_or(&values);
                let quads = to_u32(parameters.segments()[index] as usize);
                recorder.set_variant(parameters.storage());
                recorder.dispatch(&LoadWeights {
                    params: LoadWeightsParams { quads },
                    weight: weight.as_entire_buffer_binding(),
                    y: values.as_entire_buffer_binding(),
                });
                recorder.set_variant(WeightStorage::F32);
                scan.norm.record_scan(recorder, &scan.tables, index, values, OVERFLOW_NONFINITE);
            }
        }
        scan.check_parameters(gpu, parameters, &recorder.take()).await
    }

    /// A parameter that no loss depends on keeps a gradient of zero.
    fn clear_gradients(&self) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for gradient in &self.sinks.gradients {
            encoder.clear_buffer(gradient, 0, None);
        }
        self.gpu.submit(encoder);
    }

    /// What layers do to their parameters.
    fn record_layers(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let (index_of, _) = self.parameters.index_of(self.graph)?;
        for layer in self.graph.after_updates() {
            let value = |value: Value| self.values[&value].clone();
            let in_parts = Cell::new(None);
            let parameter = |index: usize| {
                let index = index_of[index];
                if index >= self.parameters.trained().len() {
                    return None;
                }
                if self.parameters.is_in_parts(index) {
                    in_parts.set(Some(index));
                }
                Some(self.parameters.slot(index))
            };
            layer.record(recorder, &value, &parameter);
            if let Some(index) = in_parts.get() {
                let instead = "leave it out (for QK-clip there is QK-norm), or take a device with \
                               larger bindings";
                let name = &self.parameters.specs()[index].name;
                return Err(parts::unsupported("what acts after the update", name, instead));
            }
        }
        Ok(())
    }

    fn segment<'s>(
        &'s self,
        scan: &'s Scan,
        index: usize,
        layout: &'s [SegmentTensor<'s>],
    ) -> Segment<'s> {
        let table = &scan.tables.segments[index];
        Segment {
            chunks: &table.chunks,
            chunk_count: table.chunk_count,
            tensors: self.tensors,
            gradient: &self.sinks.gradients[index],
            weight: &self.parameters.weights()[index],
            moments: &self.moments[index],
            layout,
        }
    }

    /// What counts as overflow: with a loss scale also what an overflow may be rounded to.
    fn overflow_bits(&self) -> u32 {
        if self.loss_scale.is_on() { OVERFLOW_LARGEST } else { OVERFLOW_NONFINITE }
    }

    fn staged_quads(&self) -> u32 {
        let has_states = !self.parameters.states().is_empty();
        if has_states { to_u32(self.sinks.staged.size() as usize / 16) } else { 0 }
    }

    fn verdict_params(&self, schedule: &RateTable) -> VerdictParams {
        let tensor_count = to_u32(self.parameters.trained().len());
        let fixed = VerdictParams {
            clip_value: self.clip.max_value(),
            rising_steps: schedule.rising_steps,
            decay_end: schedule.decay_end,
            decay_first: schedule.decay_first,
            knot_bits: schedule.knot_bits,
            give_up_after: self.give_up_after,
            staged_quads: self.staged_quads(),
            ..VerdictParams::new(tensor_count, self.optimizer.betas())
        };
        match self.loss_scale {
            LossScale::Static(_) => fixed,
            LossScale::Dynamic(scale) => VerdictParams {
                growth_factor: scale.growth,
                backoff_factor: scale.backoff,
                growth_interval: scale.interval,
                min_scale: scale.min,
                max_scale: scale.max,
                hysteresis: scale.hysteresis,
                refill_every_step: u32::from(scale.refill == Refill::EveryCleanStep),
                give_up_at_min_scale: u32::from(scale.give_up_at_min),
                ..fixed
            },
        }
    }
}

/// The learning rates on the device. Only a list of the user's own has no bound.
async fn upload_rates(gpu: &Gpu, schedule: &RateTable) -> Result<wgpu::Buffer> {
    let (needed, available) = (4 * schedule.rates.len() as u64, gpu.largest_binding());
    if needed > available {
        return Err(Error::Limit {
            what: format!("a schedule of {} factors", schedule.rates.len()),
            limit: "maxStorageBufferBindingSize (or maxBufferSize)",
            needed,
            available,
            advice: "give fewer factors, or a Schedule that is computed".into(),
        });
    }
    let upload = || gpu.upload("learning rates", &schedule.rates);
    parameters::allocate(gpu, "the schedule", needed, upload).await
}

/// What a scan left, and the tensors it is about.
pub(super) struct ScanPass<'a> {
    /// One per chunk, and zeros between segments.
    pub partials: &'a wgpu::Buffer,
    pub partial_count: u32,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    pub tensor_count: u32,
}

/// The scan of the gradients for a norm, and what it leaves.
struct Scan {
    norm: Norm,
    tables: ChunkTables,
}

impl Scan {
    fn new(gpu: &Gpu, parameters: &Parameters, norm: Norm) -> Self {
        Self { norm, tables: ChunkTables::of_trained(gpu, parameters, norm.partial_bytes()) }
    }

    /// Records the scan of flat buffers with the parameters' layout.
    fn record(&self, recorder: &mut Recorder<'_>, flat: &[wgpu::Buffer], overflow_bits: u32) {
        for (segment, gradient) in flat.iter().enumerate() {
            self.norm.record_scan(recorder, &self.tables, segment, gradient, overflow_bits);
        }
    }

    /// Records the norm of every tensor from what the scan left. Returns
    /// (tensors) [`TensorNorm`](crate::kernels::TensorNorm).
    fn record_tensor_norms(&self, recorder: &mut Recorder<'_>) -> wgpu::Buffer {
        let (gpu, count) = (recorder.gpu(), self.tables.of_tensor.len());
        let norm = self.norm.of_tensors();
        let norms = gpu.buffer("tensor norms", (count * size_of::<TensorNorm>()) as u64);
        let sums = gpu.buffer("tensor sums", count as u64 * norm.partial_bytes());
        let segments = gpu.upload("tensor partials", &self.tables.of_tensor);
        norm.record_fold(recorder, &self.tables.partials, &segments, count, [&sums, &norms]);
        norms
    }

    /// Runs the scan of the weights. Fails if one is NaN or Inf, and says which.
    async fn check_parameters(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
        scan: &[Dispatch],
    ) -> Result<()> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, scan);
        gpu.submit(encoder);
        let ChunkTables { partials, partial_count, .. } = &self.tables;
        let found: Vec<ScanPartial> = gpu.read(partials, 0, *partial_count as usize).await?;
        if found.iter().all(|partial| partial.nonfinite_count == 0) {
            return Ok(());
        }
        for spec in parameters.specs() {
            let values = parameters.read(&spec.name).await?;
            if let Some(index) = values.iter().position(|x| !x.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("the initial value of parameter {}", spec.name),
                    index,
                    value: values[index],
                    advice: "check its initialiser or the file it was read from".into(),
                });
            }
        }
        unreachable!("the scan found a value that is not finite")
    }
}
