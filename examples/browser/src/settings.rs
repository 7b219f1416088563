//! What a visitor can set.

use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::stability::{Reaction, SnapshotRing, SpikeGuard};
use evenkeel::train::{AdamW, Clip, DynamicLossScale, LossScale, Schedule, Trainer};
use evenkeel::{Error, Gpu, Precision, Result};

use crate::{Disturbed, Task};

/// Applied steps in which the learning rate rises to its full value.
const WARMUP: usize = 20;
/// Steps between two looks at every tensor.
const WATCH_EVERY: u32 = 4;
/// Steps between two snapshots on the host.
const SNAPSHOT_EVERY: u32 = 20;
/// Steps whose losses a spike is measured against.
const GUARD_WINDOW: u32 = 64;

/// Size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 layer of width 64: learns on anything.
    Tiny,
    /// 2 layers of width 64.
    Small,
    /// 4 layers of width 128.
    Medium,
    /// 6 layers of width 256: for a GPU.
    Large,
}

impl Size {
    /// Layers, heads and width.
    const fn shape(self) -> [usize; 3] {
        match self {
            Self::Tiny => [1, 2, 64],
            Self::Small => [2, 4, 64],
            Self::Medium => [4, 4, 128],
            Self::Large => [6, 8, 256],
        }
    }
}

impl std::str::FromStr for Size {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "tiny" => Self::Tiny,
            "small" => Self::Small,
            "medium" => Self::Medium,
            "large" => Self::Large,
            _ => {
                let range = "tiny, small, medium or large";
                return Err(Error::Setting { setting: "model size", value: name.into(), range });
            }
        })
    }
}

/// Settings of a run. A run is a function of these and the task: batch `i` is that of `seed` and
/// `i`, so the same settings give the same losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Size of the model.
    pub size: Size,
    /// Sequences of a batch.
    pub batch: usize,
    /// Positions of a sequence, for tasks that do not have their own.
    pub context: usize,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Gradients are clipped to this norm; with `stability` only.
    pub clip: f32,
    /// Clip, spike guard and snapshots. What no setting takes away is the verdict: a step with NaN
    /// or Inf changes nothing.
    pub stability: bool,
    /// Storage of activations.
    pub precision: Precision,
    /// Seed of weights and batches.
    pub seed: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: Size::Tiny,
            batch: 64,
            context: 32,
            learning_rate: 5e-3,
            clip: 1.0,
            stability: true,
            precision: Precision::F32,
            seed: 1,
        }
    }
}

impl Settings {
    /// The model of these settings for a task.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn model(&self, task: &Task) -> Result<LanguageModel> {
        if !(1..=4096).contains(&self.batch) {
            let (setting, value) = ("batch", self.batch.to_string());
            return Err(Error::Setting { setting, value, range: "1 to 4,096" });
        }
        let time = task.context(self);
        let [layers, heads, width] = self.size.shape();
        let gpt = Gpt::new(GptConfig::gpt2(task.vocabulary_size(), time, layers, heads, width))?;
        Ok(LanguageModel { gpt, batch: self.batch, time })
    }

    /// A trainer of that model.
    ///
    /// With and without stability features it has the same policies, so that a checkpoint of one
    /// fits the other; without, the guard's threshold is out of reach and no gradient is clipped.
    ///
    /// # Errors
    /// As [`TrainerBuilder::build`](evenkeel::train::TrainerBuilder::build).
    pub async fn trainer(
        &self,
        gpu: &Gpu,
        task: &Task,
    ) -> Result<Trainer<Disturbed<LanguageModel>>> {
        let guard = SpikeGuard {
            window: GUARD_WINDOW,
            threshold: if self.stability { 6.0 } else { f32::MAX },
            reactions: vec![Reaction::Skip, Reaction::RollBack],
            // Norms are wild while a model finds out how to carry; its loss is not.
            watch_norm: false,
            repeats: 1,
            within: 10,
            ..SpikeGuard::default()
        };
        let ring = SnapshotRing {
            every: 10,
            after: 0,
            max_rollbacks: u32::MAX,
            learning_rate_factor: 0.5,
            cut_steps: 5,
            ..SnapshotRing::default()
        };
        Trainer::builder(Disturbed(self.model(task)?))
            .optimizer(AdamW { learning_rate: self.learning_rate, ..AdamW::default() })
            .schedule(Schedule::Constant { warmup: WARMUP })
            .clip(if self.stability { Clip::Norm(self.clip) } else { Clip::None })
            .precision(self.precision)
            .loss_scale(self.loss_scale())
            .policy(guard)
            .policy(ring)
            .seed(self.seed)
            .watch_tensors(WATCH_EVERY)
            .host_snapshots(SNAPSHOT_EVERY)
            .build(gpu)
            .await
    }

    /// For f16 one that looks for its value within a minute's attention.
    fn loss_scale(&self) -> LossScale {
        match self.precision {
            Precision::F16 => LossScale::Dynamic(DynamicLossScale {
                interval: 100,
                ..DynamicLossScale::default()
            }),
            Precision::F32 | Precision::Bf16 => LossScale::default(),
        }
    }
}
