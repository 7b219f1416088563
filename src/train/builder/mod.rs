//! What a run is told before it begins, setting by setting.

pub(super) mod assembly;
mod ranks;
pub(super) mod settings;

use std::rc::Rc;
use std::time::Duration;

use assembly::build;
use settings::Settings;

#[cfg(not(target_arch = "wasm32"))]
use super::ranks::Exchange;
use super::stability::Policy;
use super::{Clip, Ema, Lengths, LossScale, Model, Norm, Optimizer, Schedule, Trainer};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernel::{Precision, WeightStorage};
use crate::plan::Parameters;

/// Settings of a training run. What is not set has a default: AdamW, no clipping, constant
/// learning rate, one microbatch per step, seed 0.
#[derive(Debug)]
pub struct TrainerBuilder<M: Model> {
    pub(super) model: M,
    pub(super) settings: Settings,
    pub(super) parameters: Option<Parameters>,
}

impl<M: Model> TrainerBuilder<M> {
    pub(super) fn new(model: M) -> Self {
        Self { model, settings: Settings::default(), parameters: None }
    }

    /// The optimizer.
    #[must_use]
    pub fn optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.settings.optimizer = Rc::new(optimizer);
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

    /// How the loss is scaled before the backward pass. The default is not at all, and in f16
    /// [`LossScale::dynamic`], or [`LossScale::fine_tuning`] where tensors are frozen.
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

    /// Keeps an exponential moving average of the trained weights, 4 bytes for each; none by default.
    #[must_use]
    pub fn ema(mut self, ema: Ema) -> Self {
        self.settings.ema = Some(ema);
        self
    }

    /// Storage of activations and of the weights to compute with. Moments, gradients of parameters
    /// and all arithmetic stay f32, and so do the weights that the optimizer updates unless
    /// [`weights`](Self::weights) says otherwise. A model chooses another precision for a part of
    /// itself by [`Graph::with_precision`](crate::graph::Graph::with_precision).
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
    /// [`Graph::set_native_f16`](crate::graph::Graph::set_native_f16). Off by default.
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

    /// Lets batches have sequences of several lengths, each padded to one of these. A length has a
    /// plan of its own, made in its first step ([`Trainer::prepare`] makes it before): over the same
    /// parameters, moments and counters, and in the memory of the plan of the longest, which is made
    /// first. A batch says its length ([`Batch::of_length`]); all microbatches of a step have the
    /// same, while steps and the batches of an evaluation may have any.
    ///
    /// The model gives its inputs as many positions as [`Graph::length`] says, as
    /// [`LanguageModel`](crate::nn::LanguageModel) does. Without dropout, a step is the one that any
    /// other length would make, within rounding.
    ///
    /// [`Batch::of_length`]: super::Batch::of_length
    /// [`Graph::length`]: crate::graph::Graph::length
    #[must_use]
    pub fn lengths(mut self, lengths: Lengths) -> Self {
        self.settings.lengths = Some(lengths);
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
    /// It costs the bytes of weights, moments, averages and policies' memories (12 per parameter
    /// with AdamW in f32) once more in memory that the host can map, and twice in the host's own; every
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
    ///
    /// [`SUBMIT_BUDGET`]: crate::gpu::SUBMIT_BUDGET
    #[must_use]
    pub fn submit_budget(mut self, budget: Duration) -> Self {
        self.settings.submit_budget = budget;
        self
    }

    /// Takes every step together with other [ranks](super::ranks), each with its own microbatches:
    /// as many on each as [`accumulation`](Self::accumulation) says. Not in a page, where nothing may
    /// wait for others.
    #[cfg(not(target_arch = "wasm32"))]
    #[must_use]
    pub fn exchange(mut self, exchange: impl Exchange + 'static) -> Self {
        self.settings.exchange = Some(Rc::new(exchange));
        self
    }

    /// Compares what all [ranks](super::ranks) have every so many steps, 1000 by default: weights,
    /// moments, averages, and what policies and the device remember. It is read of the device for
    /// that. 0 does so only before the first step, and after a checkpoint was restored, as all do.
    #[must_use]
    pub fn compare_ranks_every(mut self, steps: u32) -> Self {
        self.settings.compare_every = steps;
        self
    }

    /// Keeps the optimizer's moments once for all [ranks](super::ranks) together, in the place of once
    /// on each: a rank has those of its range of the trained tensors, and updates that. Then all get
    /// the weights of all ranges. (ZeRO stage 1, Rajbhandari et al. 2020,
    /// <https://arxiv.org/abs/1910.02054>; PyTorch's `ZeroRedundancyOptimizer`.) Not a bit of a run
    /// depends on it: not of weights, moments, averages or telemetry, whatever the optimizer.
    ///
    /// Ranges are equal as far as borders allow, which are those of tensors and, with optimizers that
    /// [take parts](Optimizer::takes_parts) of a tensor, of rows. What a step sends grows by the bytes of
    /// the trained weights, to one and a half times that without (weights and gradients in f32), since
    /// all ranks go on getting all gradients: norms and policies look at them.
    ///
    /// [`Trainer::checkpoint`] then gathers the moments, so that all ranks have to call it; what it gives
    /// is the checkpoint of any run, which restores on any number of ranks, sharded or not.
    /// [`Trainer::host_snapshot`] has those of its rank alone. Of a tensor whose rows are those of
    /// several ranks there is no [`eps_share`](super::TensorTelemetry::eps_share). Off by default; it does
    /// nothing where there are no other ranks.
    #[must_use]
    pub fn shard_optimizer_state(mut self, shard: bool) -> Self {
        self.settings.shards_optimizer = shard;
        self
    }

    /// Builds everything on the device; on several [ranks](super::ranks) together with the others.
    ///
    /// # Errors
    /// [`Error::Rank`] where another rank cannot build its trainer, or builds another;
    /// [`Error::Setting`] for settings out of range and where everything is frozen that the loss
    /// depends on, [`Error::UnknownName`] for a name to freeze that does not exist, [`Error::Limit`]
    /// and [`Error::OutOfMemory`] for a model too large ([`memory`](Self::memory) tells before),
    /// [`Error::NonFinite`] for initial parameters that are NaN or Inf.
    ///
    /// [`Error::Rank`]: crate::Error::Rank
    /// [`Error::Setting`]: crate::Error::Setting
    /// [`Error::UnknownName`]: crate::Error::UnknownName
    /// [`Error::Limit`]: crate::Error::Limit
    /// [`Error::OutOfMemory`]: crate::Error::OutOfMemory
    /// [`Error::NonFinite`]: crate::Error::NonFinite
    pub async fn build(self, gpu: &Gpu) -> Result<Trainer<M>> {
        build(&Rc::new(self.settings), Rc::new(self.model), self.parameters, gpu).await
    }
}

impl<M: Model> Trainer<M> {
    /// Starts to describe a training run of `model`.
    pub fn builder(model: M) -> TrainerBuilder<M> {
        TrainerBuilder::new(model)
    }
}
