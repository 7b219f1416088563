//! From a model and settings to a [`Trainer`]: graph, parameters, plan, update.

use std::collections::VecDeque;
use std::rc::Rc;

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Origin, Pacing, Stage};
use crate::graph::Value;
use crate::kernel::Precision;
use crate::kernels::{LossMean, LossMeanParams};
use crate::plan::{Parameters, Plan, Sinks, parameters};
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::step::StepInput;
use crate::train::evaluation::Evaluators;
use crate::train::host_copy::HostCopy;
use crate::train::host_snapshot::HostSnapshots;
use crate::train::optimizers::SegmentTensor;
use crate::train::plans::{PlanParts, Plans, differentiate, graph_of};
use crate::train::sequence::Sequence;
use crate::train::stability::{ActivePolicy, Policy};
use crate::train::telemetry::TelemetryRing;
use crate::train::tensor_telemetry::{TensorWatch, Watched};
use crate::train::update::Update;
use crate::train::{Clip, Lengths, Model, Norm, Trainer};

/// Builds a trainer, with parameters of its own where none are given.
pub(in crate::train) async fn build<M: Model>(
    settings: &Rc<Settings>,
    model: Rc<M>,
    parameters: Option<Parameters>,
    gpu: &Gpu,
) -> Result<Trainer<M>> {
    gpu.check()?;
    settings.validate()?;
    let weights = settings.chosen_weights(parameters.as_ref())?;
    settings.check_native_f16(gpu)?;
    let (precision, microbatches) = (settings.precision, settings.microbatches);
    let longest = settings.lengths.as_ref().map(Lengths::longest);
    let (mut graph, model_loss) = graph_of(settings, &*model, gpu, weights, longest);
    settings.check_lengths(&*model, gpu, weights, &graph)?;
    settings.rules.check_names(&graph, parameters.as_ref())?;
    differentiate(settings, &mut graph, model_loss)?;
    let parameters = match parameters {
        Some(parameters) => settings.rules.apply(&graph, parameters).await?,
        None => Parameters::new(gpu, &graph, settings.seed).await?,
    };
    parameters.assert_unique_names();
    settings.check_parts(&parameters)?;

    let (sinks, moments) = settings.allocate(gpu, &parameters).await?;
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
    let update = update.record().await?;
    let staging = settings.staging(gpu, plans.first()).await?;
    let watched = Watched {
        step: &step,
        parameters: &parameters,
        sinks: &sinks,
        tensors: &tensors,
        optimizer: &*settings.optimizer,
        moments: &moments,
    };
    let watch = match settings.watch_every {
        0 => None,
        every => Some(TensorWatch::new(gpu, &watched, every).await?),
    };
    let sequence = Sequence::new(plans.first(), &update, watch.as_ref(), microbatches);
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
        error_if_nonfinite: settings.error_if_nonfinite,
        gave_up: None,
    };
    if settings.snapshot_every > 0 {
        let copy = HostCopy::new(gpu, trainer.checkpointed()).await?;
        trainer.host_snapshots = Some(HostSnapshots::new(settings.snapshot_every, copy));
    }
    gpu.check()?;
    Ok(trainer)
}

impl Settings {
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
        let quads = parameters.trained_segments().iter();
        let segments: Vec<_> = quads.map(|quads| quads * Precision::F32.quad_bytes()).collect();
        let names = self.optimizer.moments();
        let moment_bytes: Vec<_> = (0..segments.len())
            .map(|i| self.optimizer.moment_bytes(&SegmentTensor::of_segment(parameters, i)))
            .collect();
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

    /// Adds to both lists of the plan: loss = mean over the microbatches, NaN or Inf where one is.
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
                    factor: 1.0 / self.microbatches as f32,
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
        if self.microbatches == 1 {
            return Ok(Vec::new());
        }
        let count = self.microbatches as u64;
        let inputs = plan.inputs.iter().map(|input| input.spec.shape.bytes());
        let all: Vec<_> = inputs
            .chain([size_of::<StepInput>() as u64])
            .map(|b| b.saturating_mul(count))
            .collect();
        let (needed, available) =
            (all.iter().copied().max().unwrap_or(0), gpu.device.limits().max_buffer_size);
        if needed > available {
            return Err(Error::Limit {
                what: format!("an input of {count} microbatches"),
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
