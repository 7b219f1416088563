//! From a model and settings to a [`Trainer`]: graph, parameters, plan, and the update's
//! dispatches.

use std::collections::VecDeque;

use super::optimizers::Segment;
use super::{AdamW, Clip, Model, Optimizer, Schedule, TelemetryRing, Trainer};
use crate::error::{Error, Result};
use crate::gpu::{ALIGNMENT, Dispatch, Gpu};
use crate::graph::{Graph, ParameterSpec, Phase, Value};
use crate::kernels::{
    Accumulate, AccumulateParams, Commit, CommitParams, GradientScan, GradientScanParams,
    Telemetry as TelemetryKernel, TelemetryParams, Verdict, VerdictParams, chunks,
};
use crate::plan::{
    Parameters, Plan, PlanRequest, Recorder, Sinks, StepBuffers, parameters, to_u32,
};
use crate::step::{Chunk, ScanPartial, StepInput, TensorSettings};

/// Settings of a training run. What is not set has a default: AdamW, no clipping, constant
/// learning rate, one microbatch per step, seed 0.
#[derive(Debug)]
pub struct TrainerBuilder<M: Model> {
    model: M,
    optimizer: Box<dyn Optimizer>,
    clip: Clip,
    schedule: Schedule,
    microbatches: usize,
    seed: u32,
    ring: u32,
    settings: fn(&ParameterSpec) -> TensorSettings,
    error_if_nonfinite: bool,
    parameters: Option<Parameters>,
}

/// Weight decay on matrices only: not on biases and norm weights, which have one dimension.
fn decay_matrices(spec: &ParameterSpec) -> TensorSettings {
    let weight_decay = if spec.shape.dims.len() > 1 { 1.0 } else { 0.0 };
    TensorSettings { weight_decay, learning_rate: 1.0 }
}

/// The flat tables of one segment.
struct SegmentTables {
    chunks: wgpu::Buffer,
    chunk_count: u32,
    /// First partial of this segment.
    partial: u64,
}

impl<M: Model> TrainerBuilder<M> {
    pub(super) fn new(model: M) -> Self {
        Self {
            model,
            optimizer: Box::new(AdamW::default()),
            clip: Clip::None,
            schedule: Schedule::default(),
            microbatches: 1,
            seed: 0,
            ring: 1024,
            settings: decay_matrices,
            error_if_nonfinite: false,
            parameters: None,
        }
    }

    /// The optimizer.
    #[must_use]
    pub fn optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.optimizer = Box::new(optimizer);
        self
    }

    /// How gradients are clipped.
    #[must_use]
    pub fn clip(mut self, clip: Clip) -> Self {
        self.clip = clip;
        self
    }

    /// The learning rate over applied steps.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Microbatches per step: their gradients are averaged before the update.
    #[must_use]
    pub fn accumulation(mut self, microbatches: usize) -> Self {
        self.microbatches = microbatches;
        self
    }

    /// Seed of initial values and dropout.
    #[must_use]
    pub fn seed(mut self, seed: u32) -> Self {
        self.seed = seed;
        self
    }

    /// Steps the telemetry ring holds before old ones are overwritten.
    #[must_use]
    pub fn telemetry_capacity(mut self, steps: u32) -> Self {
        self.ring = steps.max(1);
        self
    }

    /// Weight decay and learning-rate factor of each tensor. The default decays only tensors with
    /// two or more dimensions.
    #[must_use]
    pub fn tensor_settings(mut self, settings: fn(&ParameterSpec) -> TensorSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes [`Trainer::telemetry`] fail at the first step whose gradients are not finite. Such a
    /// step changes nothing either way.
    #[must_use]
    pub fn error_if_nonfinite(mut self, stop: bool) -> Self {
        self.error_if_nonfinite = stop;
        self
    }

    /// Trains these parameters instead of freshly initialised ones.
    #[must_use]
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = Some(parameters);
        self
    }

    /// Builds everything on the device.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings out of range, [`Error::Limit`] and [`Error::OutOfMemory`]
    /// for a model too large, [`Error::NonFinite`] for initial parameters that are NaN or Inf.
    pub async fn build(mut self, gpu: &Gpu) -> Result<Trainer<M>> {
        self.validate()?;
        let mut graph = Graph::new(Phase::Train);
        let output = self.model.build(&mut graph);
        graph.backward(output.loss, 1.0 / self.microbatches as f32);
        let parameters = match self.parameters.take() {
            Some(parameters) => parameters,
            None => Parameters::new(gpu, &graph, self.seed).await?,
        };
        parameters.assert_unique_names();

        let (sinks, moments) = self.allocate(gpu, &parameters).await?;
        let step = StepBuffers::new(gpu);
        let mut plan = Plan::new(
            gpu,
            &PlanRequest {
                graph: &graph,
                outputs: &[output.loss],
                parameters: &parameters,
                sinks: Some(&sinks),
                step: &step,
                microbatches: self.microbatches,
            },
        )
        .await?;
        let loss = gpu.buffer("loss", 16);
        self.add_loss_mean(gpu, &step, &mut plan, output.loss, &loss);
        let ring = TelemetryRing::new(gpu, self.ring, parameters.padding());
        let run = Run { gpu, parameters: &parameters, sinks: &sinks, moments: &moments };
        let update = self.record_update(&run, &step, &loss, &ring).await?;
        let staging = self.staging(gpu, &plan);
        Ok(Trainer {
            gpu: gpu.clone(),
            model: self.model,
            parameters,
            plan,
            sinks,
            moments,
            step,
            update,
            ring,
            microbatches: self.microbatches,
            staging,
            seed: self.seed,
            attempted: 0,
            learning_rate_factor: 1.0,
            in_flight: VecDeque::new(),
            evaluator: None,
            error_if_nonfinite: self.error_if_nonfinite,
        })
    }

    fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        self.clip.validate()?;
        if self.microbatches == 0 {
            return Err(Error::Setting {
                setting: "accumulation",
                value: "0".into(),
                range: "at least 1 microbatch per step",
            });
        }
        Ok(())
    }

    /// Gradients, staged states, and moments: one more flat buffer each, zeroed.
    async fn allocate(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
    ) -> Result<(Sinks, Vec<Vec<wgpu::Buffer>>)> {
        let segments: Vec<_> = parameters.weights().iter().map(wgpu::Buffer::size).collect();
        let names = self.optimizer.moments();
        let bytes = segments.iter().sum::<u64>() * (1 + names.len() as u64);
        parameters::allocate(gpu, "gradients and moments", bytes, || {
            let gradients = segments.iter().map(|&b| gpu.buffer("gradients", b)).collect();
            let staged = gpu.buffer("staged states", parameters.committed().size());
            let moments = segments
                .iter()
                .map(|&bytes| names.iter().map(|name| gpu.buffer(name, bytes)).collect())
                .collect();
            (Sinks { gradients, staged }, moments)
        })
        .await
    }

    /// Adds to both lists of the plan: loss = mean over the microbatches.
    fn add_loss_mean(
        &self,
        gpu: &Gpu,
        step: &StepBuffers,
        plan: &mut Plan,
        loss: Value,
        mean: &wgpu::Buffer,
    ) {
        let loss = &plan.values[&loss];
        let mut recorder = Recorder::new(gpu, step);
        let mut list = |accumulate: bool| {
            recorder.dispatch(&Accumulate {
                params: AccumulateParams {
                    quads: 1,
                    factor: 1.0 / self.microbatches as f32,
                    accumulate: u32::from(accumulate),
                },
                x: loss.binding(),
                y: mean.as_entire_buffer_binding(),
            });
            recorder.take()
        };
        let (first, next) = (list(false), list(true));
        plan.first.extend(first);
        if self.microbatches > 1 {
            plan.next.extend(next);
        }
    }

    /// Scan, verdict, optimizer, commit, telemetry: their number does not depend on the tensors.
    async fn record_update(
        &self,
        run: &Run<'_>,
        step: &StepBuffers,
        loss: &wgpu::Buffer,
        ring: &TelemetryRing,
    ) -> Result<Vec<Dispatch>> {
        let Run { gpu, parameters, sinks, moments } = *run;
        let mut recorder = Recorder::new(gpu, step);
        let settings: Vec<_> = parameters.specs().iter().map(self.settings).collect();
        let tensors = gpu.upload("tensor settings", &settings);
        let (tables, partial_count) = segment_tables(gpu, parameters);
        let partial_bytes = partial_count * size_of::<ScanPartial>() as u64;
        let partials = gpu.buffer("scan partials", partial_bytes);

        let scan = |recorder: &mut Recorder<'_>, flat: &[wgpu::Buffer]| {
            for (table, gradient) in tables.iter().zip(flat) {
                recorder.dispatch(&GradientScan {
                    params: GradientScanParams { chunk_count: table.chunk_count },
                    chunks: table.chunks.as_entire_buffer_binding(),
                    gradient: gradient.as_entire_buffer_binding(),
                    partials: wgpu::BufferBinding {
                        buffer: &partials,
                        offset: table.partial * size_of::<ScanPartial>() as u64,
                        size: None,
                    },
                });
            }
        };
        scan(&mut recorder, parameters.weights());
        check_initial_parameters(run, &recorder.take(), &partials).await?;

        scan(&mut recorder, &sinks.gradients);
        let rates = self.schedule.table(self.optimizer.learning_rate())?;
        recorder.dispatch(&Verdict {
            params: self.verdict_params(to_u32(partial_count as usize), to_u32(rates.len())),
            input: step.input.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
            learning_rates: gpu.upload("learning rates", &rates).as_entire_buffer_binding(),
            state: step.state.as_entire_buffer_binding(),
        });
        for (index, table) in tables.iter().enumerate() {
            let segment = Segment {
                chunks: &table.chunks,
                chunk_count: table.chunk_count,
                tensors: &tensors,
                gradient: &sinks.gradients[index],
                weight: &parameters.weights()[index],
                moments: &moments[index],
            };
            self.optimizer.record(&mut recorder, &segment);
        }
        if !parameters.states().is_empty() {
            recorder.dispatch(&Commit {
                params: CommitParams { quads: to_u32(sinks.staged.size() as usize / 16) },
                state: step.state.as_entire_buffer_binding(),
                staged: sinks.staged.as_entire_buffer_binding(),
                committed: parameters.committed().as_entire_buffer_binding(),
            });
        }
        recorder.dispatch(&TelemetryKernel {
            params: TelemetryParams { capacity: ring.capacity },
            input: step.input.as_entire_buffer_binding(),
            state: step.state.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            ring: ring.buffer.as_entire_buffer_binding(),
        });
        Ok(recorder.take())
    }

    fn verdict_params(&self, partial_count: u32, schedule_length: u32) -> VerdictParams {
        let [beta1, beta2] = self.optimizer.betas();
        VerdictParams {
            partial_count,
            norm: self.clip.norm_kind(),
            max_norm: self.clip.max_norm(),
            clip_value: self.clip.max_value(),
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            schedule_length,
        }
    }

    /// Buffers where the inputs of all microbatches wait; none for a single microbatch.
    fn staging(&self, gpu: &Gpu, plan: &Plan) -> Vec<wgpu::Buffer> {
        if self.microbatches == 1 {
            return Vec::new();
        }
        let count = self.microbatches as u64;
        let inputs = plan.inputs.iter().map(|input| input.spec.shape.bytes());
        let all = inputs.chain([size_of::<StepInput>() as u64]);
        all.map(|bytes| gpu.buffer("microbatches", bytes * count)).collect()
    }
}

/// What the update is recorded over.
#[derive(Clone, Copy)]
struct Run<'a> {
    gpu: &'a Gpu,
    parameters: &'a Parameters,
    sinks: &'a Sinks,
    moments: &'a [Vec<wgpu::Buffer>],
}

/// The chunk tables of all segments, and the number of partials. Each segment's partials start
/// at a multiple of 256 bytes; those between stay zero and count for nothing.
fn segment_tables(gpu: &Gpu, parameters: &Parameters) -> (Vec<SegmentTables>, u64) {
    let per_alignment = ALIGNMENT / size_of::<ScanPartial>() as u64;
    let mut partial = 0;
    let mut tables = Vec::new();
    for segment in 0..parameters.weights().len() {
        let table = segment_chunks(parameters, segment);
        let chunk_count = to_u32(table.len());
        let chunks = gpu.upload("chunks", &table);
        tables.push(SegmentTables { chunks, chunk_count, partial });
        partial += u64::from(chunk_count).next_multiple_of(per_alignment);
    }
    (tables, partial.max(per_alignment))
}

/// The chunks of one segment. Every tensor counts its padded rows as elements of its own; the
/// padding holds zeros in weights, gradients and moments alike.
fn segment_chunks(parameters: &Parameters, segment: usize) -> Vec<Chunk> {
    let tensors = parameters.specs().iter().zip(parameters.locations()).enumerate();
    let mine = tensors.filter(|(_, (_, location))| location.segment == segment);
    let mut table = Vec::new();
    for (tensor, (spec, location)) in mine {
        let elements = spec.shape.quads() as u64 * 4;
        for mut chunk in chunks([(location.offset / 4, elements)]) {
            chunk.tensor = to_u32(tensor);
            table.push(chunk);
        }
    }
    table
}

/// Fails if a parameter starts as NaN or Inf, and says which.
async fn check_initial_parameters(
    run: &Run<'_>,
    scan: &[Dispatch],
    partials: &wgpu::Buffer,
) -> Result<()> {
    let gpu = run.gpu;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    gpu.encode(&mut encoder, scan);
    gpu.submit(encoder);
    let count = partials.size() as usize / size_of::<ScanPartial>();
    let found: Vec<ScanPartial> = gpu.read(partials, 0, count).await?;
    if found.iter().all(|partial| partial.nonfinite_count == 0) {
        return Ok(());
    }
    for (index, spec) in run.parameters.specs().iter().enumerate() {
        let values = parameters::read_slot(gpu, &run.parameters.slot(index)).await?;
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
