//! From a model and settings to a [`Trainer`]: graph, parameters, plan, update.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::host_copy::HostCopy;
use super::host_snapshot::HostSnapshots;
use super::optimizers::SegmentTensor;
use super::sequence::Sequence;
use super::stability::{ActivePolicy, Policy};
use super::tensor_rules::{self, TensorRules};
use super::tensor_telemetry::{TensorWatch, Watched};
use super::update::Update;
use super::{AdamW, Clip, LossScale, Model, Norm, Optimizer, Schedule, TelemetryRing, Trainer};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pacing, SUBMIT_BUDGET};
use crate::graph::{Graph, Phase, Value};
use crate::kernel::{Precision, WeightStorage};
use crate::kernels::{LossMean, LossMeanParams};
use crate::plan::{Parameters, Plan, PlanRequest, Sinks, parameters, parts};
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::step::{StepInput, StepState, TensorState};

/// Settings of a training run. What is not set has a default: AdamW, no clipping, constant
/// learning rate, one microbatch per step, seed 0.
#[derive(Debug)]
pub struct TrainerBuilder<M: Model> {
    model: M,
    pub(super) settings: Settings,
    parameters: Option<Parameters>,
}

/// All that a trainer is built of beside model, parameters and device. It keeps them, to be built
/// again.
#[derive(Debug)]
pub(super) struct Settings {
    optimizer: Box<dyn Optimizer>,
    norm: Norm,
    clip: Clip,
    loss_scale: Option<LossScale>,
    give_up_after: u32,
    policies: Vec<Rc<dyn Policy>>,
    schedule: Schedule,
    precision: Precision,
    native_f16: bool,
    weights: Option<WeightStorage>,
    microbatches: usize,
    seed: u32,
    ring: u32,
    watch_every: u32,
    pub(super) rules: TensorRules,
    error_if_nonfinite: bool,
    snapshot_every: u32,
    submit_budget: Duration,
}

impl<M: Model> TrainerBuilder<M> {
    pub(super) fn new(model: M) -> Self {
        let settings = Settings {
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
            rules: TensorRules::default(),
            error_if_nonfinite: false,
            snapshot_every: 0,
            submit_budget: SUBMIT_BUDGET,
        };
        Self { model, settings, parameters: None }
    }

    /// The optimizer.
    #[must_use]
    pub fn optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.settings.optimizer = Box::new(optimizer);
        self
    }

    /// Which norm of the gradients is measured, and clipped by.
    #[must_use]
    pub fn norm(mut self, norm: Norm) -> Self {
        self.settings.norm = norm;
        self
    }

    /// How gradients are clipped.
    #[must_use]
    pub fn clip(mut self, clip: Clip) -> Self {
        self.settings.clip = clip;
        self
    }

    /// How the loss is scaled before the backward pass. The default is not at all, and
    /// [`LossScale::dynamic`] in f16.
    #[must_use]
    pub fn loss_scale(mut self, loss_scale: LossScale) -> Self {
        self.settings.loss_scale = Some(loss_scale);
        self
    }

    /// Gives up after this many skipped steps in a row: the device skips all further steps, and
    /// [`Trainer::step`] fails once [`Trainer::telemetry`] has seen it. 100 by default; 0 never.
    #[must_use]
    pub fn give_up_after(mut self, skipped_in_row: u32) -> Self {
        self.settings.give_up_after = skipped_in_row;
        self
    }

    /// Adds a policy; see [`stability`](super::stability). Policies act in the order they are
    /// added.
    #[must_use]
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.settings.policies.push(Rc::new(policy));
        self
    }

    /// The learning rate over applied steps.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.settings.schedule = schedule;
        self
    }

    /// Storage of activations and of the weights to compute with. Moments, gradients of parameters
    /// and all arithmetic stay f32, and so do the weights that the optimizer updates unless
    /// [`weights`](Self::weights) says otherwise. A model chooses another precision for a part of
    /// itself by [`Graph::with_precision`].
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.settings.precision = precision;
        self
    }

    /// How the optimizer holds the weights. The default is f32, or what the given
    /// [`parameters`](Self::parameters) have.
    #[must_use]
    pub fn weights(mut self, weights: WeightStorage) -> Self {
        self.settings.weights = Some(weights);
        self
    }

    /// Lets matrix products multiply in f16 with [`Precision::F16`]; see
    /// [`Graph::set_native_f16`]. Off by default.
    #[must_use]
    pub fn native_f16(mut self, native: bool) -> Self {
        self.settings.native_f16 = native;
        self
    }

    /// Microbatches per step: the loss that a step descends is the mean of theirs, and that of a
    /// cross-entropy is the mean over the targets of all of them, as in one large batch, however
    /// unevenly they are spread.
    #[must_use]
    pub fn accumulation(mut self, microbatches: usize) -> Self {
        self.settings.microbatches = microbatches;
        self
    }

    /// Seed of initial values and dropout.
    #[must_use]
    pub fn seed(mut self, seed: u32) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Steps the telemetry ring holds before old ones are overwritten: at least 1 and at most
    /// 1,048,576, which take 72 MiB.
    #[must_use]
    pub fn telemetry_capacity(mut self, steps: u32) -> Self {
        self.settings.ring = steps.clamp(1, 1 << 20);
        self
    }

    /// Measures every tensor in each `every`-th step, from step 0 on: norm of the gradient, size of
    /// weights and update, shares that were clipped or stood still. Read by
    /// [`Trainer::tensor_telemetry`]. 0, the default, never does; it takes a copy of the weights.
    #[must_use]
    pub fn watch_tensors(mut self, every: u32) -> Self {
        self.settings.watch_every = every;
        self
    }

    /// Makes [`Trainer::telemetry`] fail at the first step whose gradients, loss or new running
    /// statistics are not finite. Such a step changes nothing either way.
    #[must_use]
    pub fn error_if_nonfinite(mut self, stop: bool) -> Self {
        self.settings.error_if_nonfinite = stop;
        self
    }

    /// Trains these parameters instead of freshly initialised ones, in the storage they have. Which
    /// of them are frozen is up to this model and these settings, not to those they come from; where
    /// that is another choice, they move to other buffers, so that predictors are to be made of
    /// [`Trainer::parameters`].
    #[must_use]
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = Some(parameters);
        self
    }

    /// Takes a snapshot for the host after every `every`-th step: all that
    /// [`Trainer::checkpoint`] holds, without waiting for it. It is there a step or two later
    /// ([`Trainer::host_snapshot`]), and still there once the device is lost, to go on from
    /// ([`Trainer::rebuild`]). 0, the default, takes none.
    ///
    /// It costs the bytes of weights, moments and policies' memories (12 per parameter with AdamW
    /// in f32) once more in memory that the host can map, and twice in the host's own; every
    /// `every` steps a copy of them on the device, a map, and a copy on the host. What is lost with
    /// the device is at most `every` steps and the two or three in flight.
    #[must_use]
    pub fn host_snapshots(mut self, every: u32) -> Self {
        self.settings.snapshot_every = every;
        self
    }

    /// What a submit may take before the step is split into several; [`SUBMIT_BUDGET`], half a
    /// second, by default. Drivers and browsers reset the device when a submit takes a few seconds,
    /// and a display that is drawn by the same adapter stands still meanwhile, so a page that is to
    /// stay smooth may want less. Splitting changes no bit of the results.
    ///
    /// The first step of a trainer is submitted in parts, from one dispatch up, that are waited for
    /// and measured. Later steps are one submit where they fit, and wait for nothing; see
    /// [`Trainer::submits`]. The budget holds for [`Trainer::evaluate`] and [`Trainer::diagnose`]
    /// too.
    #[must_use]
    pub fn submit_budget(mut self, budget: Duration) -> Self {
        self.settings.submit_budget = budget;
        self
    }

    /// Builds everything on the device.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings out of range and where everything is frozen that the loss
    /// depends on, [`Error::UnknownName`] for a name to freeze that does not exist, [`Error::Limit`]
    /// and [`Error::OutOfMemory`] for a model too large, [`Error::NonFinite`] for initial parameters
    /// that are NaN or Inf.
    pub async fn build(self, gpu: &Gpu) -> Result<Trainer<M>> {
        build(&Rc::new(self.settings), Rc::new(self.model), self.parameters, gpu).await
    }
}

/// Builds a trainer, with parameters of its own where none are given.
pub(super) async fn build<M: Model>(
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
    let mut graph = Graph::in_precision(Phase::Train, precision).with_weights(weights);
    graph.set_native_f16(settings.native_f16);
    let output = model.build(&mut graph);
    settings.rules.check_names(&graph, parameters.as_ref())?;
    graph.freeze(|spec| settings.rules.freeze(spec));
    graph.backward(output.loss, 1.0 / microbatches as f32);
    tensor_rules::check_gradients(&graph)?;
    let parameters = match parameters {
        Some(parameters) => settings.rules.apply(&graph, parameters).await?,
        None => Parameters::new(gpu, &graph, settings.seed).await?,
    };
    parameters.assert_unique_names();
    settings.check_parts(&parameters)?;

    let (sinks, moments) = settings.allocate(gpu, &parameters).await?;
    let loss_scale = settings.chosen_loss_scale();
    let step = StepBuffers::from_state(gpu, settings.initial_state());
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
            microbatches,
        },
    )
    .await?;
    let loss = gpu.buffer("loss", 16);
    settings.add_loss_mean(gpu, &step, &mut plan, output.loss, &loss);
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
        values: &plan.values,
    };
    let kept = policies.iter().map(|active| active.memory.size());
    let policy_bytes = kept.sum::<u64>() + update.policy_bytes();
    let update = update.record().await?;
    let staging = settings.staging(gpu, &plan).await?;
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
    let sequence = Sequence::new(&plan, &update, watch.as_ref(), microbatches);
    let pacing = Pacing::new(settings.submit_budget, sequence.len());
    let mut trainer = Trainer {
        gpu: gpu.clone(),
        model,
        settings: Rc::clone(settings),
        parameters,
        plan,
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
        evaluator: None,
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

    fn check_native_f16(&self, gpu: &Gpu) -> Result<()> {
        if !self.native_f16 || gpu.device.features().contains(wgpu::Features::SHADER_F16) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "arithmetic in f16".into(),
            instead: "this device has no shader-f16; leave native_f16 off, f16 storage needs no \
                      feature"
                .into(),
        })
    }

    /// Fails if the optimizer needs the whole of a tensor that lies in parts.
    fn check_parts(&self, parameters: &Parameters) -> Result<()> {
        let mut specs = parameters.trained().iter().enumerate();
        let refused = specs.find(|&(index, spec)| {
            parameters.is_in_parts(index) && !self.optimizer.takes_parts(spec)
        });
        let Some((_, spec)) = refused else { return Ok(()) };
        let what = format!("the optimizer {:?}", self.optimizer);
        let instead = "its rule needs the whole tensor; take AdamW, Adam, AdamAtan2, Lion or Sgd, \
                       not cautious, leave the tensor out of what Muon takes for hidden, or take a \
                       device with larger bindings";
        Err(parts::unsupported(&what, &spec.name, instead))
    }

    fn chosen_weights(&self, given: Option<&Parameters>) -> Result<WeightStorage> {
        let given = given.map(Parameters::storage);
        match (self.weights, given) {
            (Some(wanted), Some(given)) if wanted != given => Err(Error::Setting {
                setting: "weights",
                value: wanted.to_string(),
                range: "the storage of the parameters that are given",
            }),
            (wanted, given) => Ok(wanted.or(given).unwrap_or_default()),
        }
    }

    pub(super) fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    pub(super) fn seed(&self) -> u32 {
        self.seed
    }

    /// The device's account of a run that has not begun.
    pub(super) fn initial_state(&self) -> StepState {
        let loss_scale = self.chosen_loss_scale();
        StepState::new(loss_scale.init(), loss_scale.hysteresis())
    }

    /// The rows of the tensor table of a run that has not begun.
    pub(super) fn initial_tensors(&self, parameters: &Parameters) -> Result<Vec<TensorState>> {
        self.rules.states(parameters.trained())
    }

    pub(super) fn chosen_loss_scale(&self) -> LossScale {
        self.loss_scale.unwrap_or(match self.precision {
            Precision::F16 => LossScale::dynamic(),
            Precision::F32 | Precision::Bf16 => LossScale::default(),
        })
    }

    fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.learning_rate())?;
        self.norm.validate()?;
        self.clip.validate()?;
        self.chosen_loss_scale().validate()?;
        self.validate_policies()?;
        if self.microbatches == 0 || u32::try_from(self.microbatches).is_err() {
            return Err(Error::Setting {
                setting: "accumulation",
                value: self.microbatches.to_string(),
                range: "at least 1 microbatch per step, and at most 2^32 - 1",
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
