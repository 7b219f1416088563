//! From a model and settings to a [`Trainer`]: graph, parameters, plan, update.

use std::collections::VecDeque;
use std::rc::Rc;

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, MemoryLimits, Origin, Pacing, Stage};
use crate::graph::{Graph, InputSpec, Value};
use crate::kernel::Precision;
use crate::kernels::{LossMean, LossMeanParams};
use crate::plan::{ParameterLayout, Parameters, Plan, Sinks, parameters};
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::step::StepInput;
use crate::train::average::Average;
use crate::train::evaluation::Evaluators;
use crate::train::host_copy::HostCopy;
use crate::train::host_snapshot::HostSnapshots;
use crate::train::plans::{PlanParts, Plans, differentiate, graph_of, outputs};
use crate::train::ranks::{Ranks, Shared, agree_about};
use crate::train::sequence::Sequence;
use crate::train::stability::{ActivePolicy, Policy};
use crate::train::telemetry::TelemetryRing;
use crate::train::tensor_telemetry::{TensorWatch, Watched};
use crate::train::update::{Recorded, Update};
use crate::train::{Clip, Lengths, Model, Norm, Trainer};

/// Builds a trainer, with parameters of its own where none are given; with other ranks, where there
/// are some.
pub(in crate::train) async fn build<M: Model>(
    settings: &Rc<Settings>,
    model: Rc<M>,
    parameters: Option<Parameters>,
    gpu: &Gpu,
) -> Result<Trainer<M>> {
    let built = build_alone(settings, model, parameters, gpu).await;
    match &settings.exchange {
        None => built,
        Some(exchange) => agree_about(exchange, built),
    }
}

async fn build_alone<M: Model>(
    settings: &Rc<Settings>,
    model: Rc<M>,
    parameters: Option<Parameters>,
    gpu: &Gpu,
) -> Result<Trainer<M>> {
    gpu.check()?;
    let (precision, microbatches) = (settings.precision, settings.microbatches);
    let given = parameters.as_ref().map(Parameters::layout);
    let outline = settings.outline(&*model, given, gpu.memory_limits())?;
    settings.check_native_f16(gpu)?;
    let Outline { graph, loss: model_loss, .. } = outline;
    let parameters = match parameters {
        Some(parameters) => parameters.with_trained(settings.rules.are_trained(&graph)).await?,
        None => Parameters::new(gpu, &graph, settings.seed).await?,
    };
    parameters.assert_unique_names();

    let shards = settings.shards(parameters.layout());
    let (sinks, moments) = settings.allocate(gpu, &parameters).await?;
    let average = match settings.ema {
        Some(ema) => Some(Average::new(gpu, ema, &parameters).await?),
        None => None,
    };
    let loss_scale = settings.chosen_loss_scale(&parameters);
    let step = StepBuffers::from_state(gpu, settings.initial_state(&parameters));
    let loss = gpu.buffer("loss", 16);
    let parts = PlanParts {
        gpu,
        settings,
        parameters: &parameters,
        sinks: &sinks,
        step: &step,
        loss: &loss,
    };
    let plans = Plans::new(&parts, &graph, model_loss).await?;
    let ring = TelemetryRing::new(gpu, settings.ring, parameters.trained_padding()).await?;
    let tensors = gpu.upload("tensors", &settings.initial_tensors(&parameters)?);
    let policies = settings.activate_policies(gpu, parameters.trained().len()).await?;
    let update = Update {
        gpu,
        parameters: &parameters,
        sinks: &sinks,
        moments: &moments,
        shards: &shards,
        average: average.as_ref(),
        step: &step,
        tensors: &tensors,
        optimizer: &*settings.optimizer,
        norm: match settings.clip {
            Clip::InfinityNorm(_) => Norm::Infinity,
            _ => settings.norm,
        },
        clip: settings.clip,
        loss_scale,
        give_up_after: settings.give_up_after,
        policies: &policies,
        schedule: &settings.schedule,
        loss: &loss,
        ring: &ring,
        graph: &graph,
        values: &plans.first().values,
    };
    let kept = policies.iter().map(|active| active.memory.size());
    let policy_bytes = kept.sum::<u64>() + update.policy_bytes();
    let Recorded { update, advanced } = update.record().await?;
    let staging = settings.staging(gpu, plans.first()).await?;
    let watched = Watched {
        step: &step,
        parameters: &parameters,
        sinks: &sinks,
        tensors: &tensors,
        optimizer: &*settings.optimizer,
        moments: &moments,
        shards: &shards,
    };
    let watch = match settings.watch_every {
        0 => None,
        every => Some(TensorWatch::new(gpu, &watched, every).await?),
    };
    let shared = Shared {
        graph: &graph,
        outputs: &outputs(&graph, model_loss),
        gradients: &sinks.gradients,
        parameters: &parameters,
        shards,
        advanced,
    };
    let ranks = Ranks::new(gpu, settings, shared).await?;
    let sequence = Sequence::new(plans.first(), &update, watch.as_ref(), microbatches);
    gpu.compile(sequence.dispatches(0..sequence.len()).map(|placed| placed.dispatch)).await?;
    let pacing = Pacing::new(settings.submit_budget, sequence.len());
    let mut trainer = Trainer {
        gpu: gpu.clone(),
        model,
        settings: Rc::clone(settings),
        parameters,
        plans,
        loss,
        precision,
        sinks,
        moments,
        moment_names: settings.optimizer.moments(),
        average,
        step,
        tensors,
        policies,
        policy_bytes,
        observations: graph.observations().iter().map(|(name, _)| name.clone()).collect(),
        update,
        ring,
        watch,
        microbatches,
        staging,
        seed: settings.seed,
        attempted: 0,
        learning_rate_factor: 1.0,
        pacing,
        in_flight: VecDeque::new(),
        host_snapshots: None,
        evaluators: Evaluators::default(),
        ranks,
        error_if_nonfinite: settings.error_if_nonfinite,
        gave_up: None,
    };
    if settings.snapshot_every > 0 {
        let copy = HostCopy::new(gpu, trainer.checkpointed(false)).await?;
        trainer.host_snapshots = Some(HostSnapshots::new(settings.snapshot_every, copy));
    }
    gpu.check()?;
    Ok(trainer)
}

/// What a trainer is built of, before anything is on the device.
pub(in crate::train) struct Outline {
    /// For the longest sequences, differentiated.
    pub graph: Graph,
    pub loss: Value,
    pub layout: ParameterLayout,
}

impl Settings {
    /// Checks the settings, and that they suit the model and given parameters.
    pub(in crate::train) fn outline<M: Model>(
        &self,
        model: &M,
        given: Option<&ParameterLayout>,
        limits: MemoryLimits,
    ) -> Result<Outline> {
        self.validate()?;
        let (weights, largest) = (self.chosen_weights(given)?, limits.largest_binding);
        let longest = self.lengths.as_ref().map(Lengths::longest);
        let (mut graph, loss) = graph_of(self, model, largest, weights, longest);
        self.check_lengths(model, largest, weights, &graph)?;
        self.rules.check_names(&graph, given)?;
        differentiate(self, &mut graph, loss)?;
        let layout = match given {
            Some(given) => given.with_trained(self.rules.are_trained(&graph), largest)?,
            None => {
                ParameterLayout::new(graph.parameters(), graph.states(), graph.weights(), largest)?
            }
        };
        self.check_parts(&layout)?;
        Ok(Outline { graph, loss, layout })
    }

    /// Bytes of the gradients and of each of the moments that are kept here, by trained segment.
    pub(in crate::train) fn trained_bytes(
        &self,
        layout: &ParameterLayout,
    ) -> (Vec<u64>, Vec<Vec<u64>>) {
        let quads = layout.trained_segments().iter();
        let gradients: Vec<_> = quads.map(|quads| quads * Precision::F32.quad_bytes()).collect();
        let shards = self.shards(layout);
        (gradients, self.moment_bytes(layout, &shards, shards.rank))
    }

    /// Bytes of what the optimizer has in hand within a step.
    pub(in crate::train) fn optimizer_bytes(&self, layout: &ParameterLayout) -> u64 {
        let own = self.shards(layout).own(layout);
        own.iter().map(|tensors| self.optimizer.scratch_bytes(tensors)).sum()
    }

    /// Bytes of the buffers where the inputs of all microbatches wait: one for each input, and one
    /// for what else a step is told. None for a single microbatch.
    pub(in crate::train) fn staging_bytes<'a>(
        &self,
        inputs: impl Iterator<Item = &'a InputSpec>,
    ) -> Vec<u64> {
        if self.microbatches == 1 {
            return Vec::new();
        }
        let count = self.microbatches as u64;
        let inputs = inputs.map(|input| input.shape.bytes());
        let all = inputs.chain([size_of::<StepInput>() as u64]);
        all.map(|bytes| bytes.saturating_mul(count)).collect()
    }

    async fn activate_policies(&self, gpu: &Gpu, tensor_count: usize) -> Result<Vec<ActivePolicy>> {
        let memory = |policy: &dyn Policy| policy.memory(to_u32(tensor_count));
        let memories: Vec<_> = self.policies.iter().map(|policy| memory(&**policy)).collect();
        let bytes = memories.iter().map(|memory| 4 * memory.len() as u64).sum();
        parameters::allocate(gpu, "the memories of policies", bytes, || {
            let policies = self.policies.iter().zip(memories);
            let activate = |(policy, memory): (&Rc<dyn Policy>, Vec<u32>)| ActivePolicy {
                policy: Rc::clone(policy),
                memory: gpu.upload(policy.name(), &memory),
            };
            policies.map(activate).collect()
        })
        .await
    }

    /// Gradients, staged states, and what the optimizer keeps, zeroed.
    async fn allocate(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
    ) -> Result<(Sinks, Vec<Vec<wgpu::Buffer>>)> {
        let (segments, moment_bytes) = self.trained_bytes(parameters.layout());
        let names = self.optimizer.moments();
        let bytes = segments.iter().sum::<u64>() + moment_bytes.iter().flatten().sum::<u64>();
        parameters::allocate(gpu, "gradients and moments", bytes, || {
            let gradients = segments.iter().map(|&b| gpu.buffer("gradients", b)).collect();
            let staged = gpu.buffer("staged states", parameters.committed().size());
            let moments = moment_bytes
                .iter()
                .map(|bytes| names.iter().zip(bytes).map(|(n, &b)| gpu.buffer(n, b)).collect())
                .collect();
            (Sinks { gradients, staged }, moments)
        })
        .await
    }

    /// Adds to both lists of the plan: loss = mean over the microbatches, NaN or Inf where one is; this
    /// rank's share of the mean over all ranks.
    pub(in crate::train) fn add_loss_mean(
        &self,
        gpu: &Gpu,
        step: &StepBuffers,
        plan: &mut Plan,
        loss: Value,
        mean: &wgpu::Buffer,
    ) {
        let loss = &plan.values[&loss];
        let mut recorder = Recorder::new(gpu, step);
        recorder.set_origin(Origin::of_step("loss", Stage::Forward));
        let mut list = |accumulate: bool| {
            recorder.dispatch(&LossMean {
                params: LossMeanParams {
                    factor: 1.0 / self.all_microbatches() as f32,
                    accumulate: u32::from(accumulate),
                },
                loss: loss.binding(),
                mean: mean.as_entire_buffer_binding(),
            });
            recorder.take()
        };
        let (first, next) = (list(false), list(true));
        plan.first.extend(first);
        if self.microbatches > 1 {
            plan.next.extend(next);
        }
    }

    /// Buffers where the inputs of all microbatches wait; none for a single microbatch.
    async fn staging(&self, gpu: &Gpu, plan: &Plan) -> Result<Vec<wgpu::Buffer>> {
        let all = self.staging_bytes(plan.inputs.iter().map(|input| &input.spec));
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let (needed, available) =
            (all.iter().copied().max().unwrap_or(0), gpu.device.limits().max_buffer_size);
        if needed > available {
            return Err(Error::Limit {
                what: format!("an input of {} microbatches", self.microbatches),
                limit: "maxBufferSize",
                needed,
                available,
                advice: "use fewer or smaller microbatches".into(),
            });
        }
        parameters::allocate(gpu, "the inputs of microbatches", all.iter().sum(), || {
            all.iter().map(|&bytes| gpu.buffer("microbatches", bytes)).collect()
        })
        .await
    }
}
