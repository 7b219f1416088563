//! From a model and settings to a [`Trainer`]: graph, parameters, plan, update.

use std::collections::VecDeque;

use super::optimizers::SegmentTensor;
use super::stability::{ActivePolicy, Policy};
use super::tensor_telemetry::{TensorWatch, Watched};
use super::update::Update;
use super::{AdamW, Clip, LossScale, Model, Norm, Optimizer, Schedule, TelemetryRing, Trainer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, ParameterSpec, Phase, Value};
use crate::kernels::{Accumulate, AccumulateParams};
use crate::plan::{
    Parameters, Plan, PlanRequest, Recorder, Sinks, StepBuffers, parameters, to_u32,
};
use crate::precision::{Precision, WeightStorage};
use crate::step::{StepInput, StepState, TensorSettings, TensorState};

/// Settings of a training run. What is not set has a default: AdamW, no clipping, constant
/// learning rate, one microbatch per step, seed 0.
#[derive(Debug)]
pub struct TrainerBuilder<M: Model> {
    model: M,
    optimizer: Box<dyn Optimizer>,
    norm: Norm,
    clip: Clip,
    loss_scale: Option<LossScale>,
    give_up_after: u32,
    policies: Vec<Box<dyn Policy>>,
    schedule: Schedule,
    precision: Precision,
    native_f16: bool,
    weights: Option<WeightStorage>,
    microbatches: usize,
    seed: u32,
    ring: u32,
    watch_every: u32,
    settings: fn(&ParameterSpec) -> TensorSettings,
    error_if_nonfinite: bool,
    parameters: Option<Parameters>,
}

/// Weight decay on matrices only: not on biases and norm weights, which have one dimension.
fn decay_matrices(spec: &ParameterSpec) -> TensorSettings {
    let weight_decay = if spec.shape.dims.len() > 1 { 1.0 } else { 0.0 };
    TensorSettings { weight_decay, learning_rate: 1.0 }
}

impl<M: Model> TrainerBuilder<M> {
    pub(super) fn new(model: M) -> Self {
        Self {
            model,
            optimizer: Box::new(AdamW::default()),
            norm: Norm::L2,
            clip: Clip::None,
            loss_scale: None,
            give_up_after: 100,
            policies: Vec::new(),
            schedule: Schedule::default(),
            precision: Precision::F32,
            native_f16: false,
            weights: None,
            microbatches: 1,
            seed: 0,
            ring: 1024,
            watch_every: 0,
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

    /// Which norm of the gradients is measured, and clipped by.
    #[must_use]
    pub fn norm(mut self, norm: Norm) -> Self {
        self.norm = norm;
        self
    }

    /// How gradients are clipped.
    #[must_use]
    pub fn clip(mut self, clip: Clip) -> Self {
        self.clip = clip;
        self
    }

    /// How the loss is scaled before the backward pass. The default is not at all, and
    /// [`LossScale::dynamic`] in f16.
    #[must_use]
    pub fn loss_scale(mut self, loss_scale: LossScale) -> Self {
        self.loss_scale = Some(loss_scale);
        self
    }

    /// Gives up after this many skipped steps in a row: the device skips all further steps, and
    /// [`Trainer::step`] fails once [`Trainer::telemetry`] has seen it. 100 by default; 0 never.
    #[must_use]
    pub fn give_up_after(mut self, skipped_in_row: u32) -> Self {
        self.give_up_after = skipped_in_row;
        self
    }

    /// Adds a policy; see [`stability`](super::stability). Policies act in the order they are
    /// added.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policies.push(Box::new(policy));
        self
    }

    /// The learning rate over applied steps.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Storage of activations and of the weights to compute with. Moments, gradients of parameters
    /// and all arithmetic stay f32, and so do the weights that the optimizer updates unless
    /// [`weights`](Self::weights) says otherwise. A model chooses another precision for a part of
    /// itself by [`Graph::with_precision`].
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// How the optimizer holds the weights. The default is f32, or what the given
    /// [`parameters`](Self::parameters) have.
    #[must_use]
    pub fn weights(mut self, weights: WeightStorage) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Lets matrix products multiply in f16 with [`Precision::F16`]; see
    /// [`Graph::set_native_f16`]. Off by default.
    #[must_use]
    pub fn native_f16(mut self, native: bool) -> Self {
        self.native_f16 = native;
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

    /// Measures every tensor in each `every`-th step, from step 0 on: norm of the gradient, size of
    /// weights and update, shares that were clipped or stood still. Read by
    /// [`Trainer::tensor_telemetry`]. 0, the default, never does; it takes a copy of the weights.
    #[must_use]
    pub fn watch_tensors(mut self, every: u32) -> Self {
        self.watch_every = every;
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

    /// Trains these parameters instead of freshly initialised ones, in the storage they have.
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
        let weights = self.chosen_weights()?;
        if self.native_f16 && !gpu.device.features().contains(wgpu::Features::SHADER_F16) {
            return Err(Error::Unsupported {
                what: "arithmetic in f16".into(),
                instead: "this device has no shader-f16; leave native_f16 off, f16 storage needs \
                          no feature"
                    .into(),
            });
        }
        let mut graph = Graph::in_precision(Phase::Train, self.precision).with_weights(weights);
        graph.set_native_f16(self.native_f16);
        let output = self.model.build(&mut graph);
        graph.backward(output.loss, 1.0 / self.microbatches as f32);
        let parameters = match self.parameters.take() {
            Some(parameters) => parameters,
            None => Parameters::new(gpu, &graph, self.seed).await?,
        };
        parameters.assert_unique_names();

        let (sinks, moments) = self.allocate(gpu, &parameters).await?;
        let loss_scale = self.chosen_loss_scale();
        let state = StepState::new(loss_scale.init(), loss_scale.hysteresis());
        let step = StepBuffers::from_state(gpu, state);
        let observed = graph.observations().iter().map(|&(_, value)| value);
        let read = graph.after_updates().iter().flat_map(|layer| layer.reads());
        let outputs: Vec<_> = [output.loss].into_iter().chain(observed).chain(read).collect();
        let mut plan = Plan::new(
            gpu,
            &PlanRequest {
                graph: &graph,
                outputs: &outputs,
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
        let settings = parameters.specs().iter().map(self.settings).map(TensorState::from);
        let tensors = gpu.upload("tensors", &settings.collect::<Vec<_>>());
        let policies = self.activate_policies(gpu, parameters.specs().len());
        let update = Update {
            gpu,
            parameters: &parameters,
            sinks: &sinks,
            moments: &moments,
            step: &step,
            tensors: &tensors,
            optimizer: &*self.optimizer,
            norm: match self.clip {
                Clip::InfinityNorm(_) => Norm::Infinity,
                _ => self.norm,
            },
            clip: self.clip,
            loss_scale,
            give_up_after: self.give_up_after,
            policies: &policies,
            schedule: &self.schedule,
            loss: &loss,
            ring: &ring,
            graph: &graph,
            values: &plan.values,
        };
        let kept = policies.iter().map(|active| active.memory.size());
        let policy_bytes = kept.sum::<u64>() + update.policy_bytes();
        let update = update.record().await?;
        let staging = self.staging(gpu, &plan);
        let watched = Watched {
            step: &step,
            parameters: &parameters,
            sinks: &sinks,
            tensors: &tensors,
            optimizer: &*self.optimizer,
            moments: &moments,
        };
        let watch =
            (self.watch_every > 0).then(|| TensorWatch::new(gpu, &watched, self.watch_every));
        Ok(Trainer {
            gpu: gpu.clone(),
            model: self.model,
            parameters,
            plan,
            precision: self.precision,
            sinks,
            moments,
            moment_names: self.optimizer.moments(),
            step,
            tensors,
            policies,
            policy_bytes,
            observations: graph.observations().iter().map(|(name, _)| name.clone()).collect(),
            update,
            ring,
            watch,
            microbatches: self.microbatches,
            staging,
            seed: self.seed,
            attempted: 0,
            learning_rate_factor: 1.0,
            in_flight: VecDeque::new(),
            evaluator: None,
            error_if_nonfinite: self.error_if_nonfinite,
            gave_up: None,
        })
    }

    fn activate_policies(&mut self, gpu: &Gpu, tensor_count: usize) -> Vec<ActivePolicy> {
        let activate = |policy: Box<dyn Policy>| {
            let memory = gpu.upload(policy.name(), &policy.memory(to_u32(tensor_count)));
            ActivePolicy { policy, memory }
        };
        std::mem::take(&mut self.policies).into_iter().map(activate).collect()
    }

    fn chosen_weights(&self) -> Result<WeightStorage> {
        let given = self.parameters.as_ref().map(Parameters::storage);
        match (self.weights, given) {
            (Some(wanted), Some(given)) if wanted != given => Err(Error::Setting {
                setting: "weights",
                value: wanted.to_string(),
                range: "the storage of the parameters that are given",
            }),
            (wanted, given) => Ok(wanted.or(given).unwrap_or_default()),
        }
    }

    fn chosen_loss_scale(&self) -> LossScale {
        self.loss_scale.unwrap_or(match self.precision {
            Precision::F16 => LossScale::dynamic(),
            Precision::F32 | Precision::Bf16 => LossScale::default(),
        })
    }

    fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        self.norm.validate()?;
        self.clip.validate()?;
        self.chosen_loss_scale().validate()?;
        self.validate_policies()?;
        if self.microbatches == 0 {
            return Err(Error::Setting {
                setting: "accumulation",
                value: "0".into(),
                range: "at least 1 microbatch per step",
            });
        }
        Ok(())
    }

    /// Each policy alone, and what it needs of the others and of the norm.
    fn validate_policies(&self) -> Result<()> {
        for (index, policy) in self.policies.iter().enumerate() {
            policy.validate()?;
            if self.policies[..index].iter().any(|other| other.name() == policy.name()) {
                return Err(Error::Setting {
                    setting: "policy",
                    value: format!("{} twice", policy.name()),
                    range: "of a different name each",
                });
            }
        }
        let wants = self.policies.iter().find(|policy| policy.needs_tensor_norms());
        if let Some(policy) = wants.filter(|_| !self.norm.measures_l2()) {
            return Err(Error::Setting {
                setting: "norm",
                value: format!("{:?} together with {}", self.norm, policy.name()),
                range: "L2, ExactL2 or Infinity",
            });
        }
        let asks = self.policies.iter().find(|policy| policy.asks_for_rollback());
        if let Some(policy) = asks.filter(|_| !self.policies.iter().any(|p| p.can_roll_back())) {
            return Err(Error::Setting {
                setting: "policy",
                value: format!("{} that asks for rollbacks", policy.name()),
                range: "together with a SnapshotRing",
            });
        }
        Ok(())
    }

    /// Gradients, staged states, and what the optimizer keeps, zeroed.
    async fn allocate(
        &self,
        gpu: &Gpu,
        parameters: &Parameters,
    ) -> Result<(Sinks, Vec<Vec<wgpu::Buffer>>)> {
        let quads = parameters.segments().iter();
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
