//! The settings of a run: defaults, checks, and what follows from them.

use std::rc::Rc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, SUBMIT_BUDGET};
use crate::kernel::{Precision, WeightStorage};
use crate::plan::{ParameterLayout, Parameters, parts};
use crate::step::{StepState, TensorState};
use crate::train::ranks::RunExchange;
use crate::train::stability::Policy;
use crate::train::tensor_rules::TensorRules;
use crate::train::{AdamW, Clip, Ema, Lengths, LossScale, Norm, Optimizer, Schedule};

/// All that a trainer is built of beside model, parameters and device. It keeps them, to be built
/// again.
#[derive(Clone, Debug)]
pub(in crate::train) struct Settings {
    pub(in crate::train) optimizer: Rc<dyn Optimizer>,
    pub(super) norm: Norm,
    pub(super) clip: Clip,
    pub(super) loss_scale: Option<LossScale>,
    pub(super) give_up_after: u32,
    pub(in crate::train) policies: Vec<Rc<dyn Policy>>,
    pub(super) schedule: Schedule,
    pub(in crate::train) ema: Option<Ema>,
    pub(in crate::train) precision: Precision,
    pub(in crate::train) native_f16: bool,
    pub(super) weights: Option<WeightStorage>,
    pub(in crate::train) microbatches: usize,
    pub(in crate::train) lengths: Option<Lengths>,
    pub(super) seed: u32,
    pub(in crate::train) ring: u32,
    pub(in crate::train) watch_every: u32,
    pub(in crate::train) rules: TensorRules,
    pub(super) error_if_nonfinite: bool,
    pub(in crate::train) snapshot_every: u32,
    pub(super) submit_budget: Duration,
    pub(in crate::train) exchange: Option<RunExchange>,
    pub(in crate::train) compare_every: u32,
    pub(super) shards_optimizer: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            optimizer: Rc::new(AdamW::default()),
            norm: Norm::L2,
            clip: Clip::None,
            loss_scale: None,
            give_up_after: 100,
            policies: Vec::new(),
            schedule: Schedule::default(),
            ema: None,
            precision: Precision::F32,
            native_f16: false,
            weights: None,
            microbatches: 1,
            lengths: None,
            seed: 0,
            ring: 1024,
            watch_every: 0,
            rules: TensorRules::default(),
            error_if_nonfinite: false,
            snapshot_every: 0,
            submit_budget: SUBMIT_BUDGET,
            exchange: None,
            compare_every: 1000,
            shards_optimizer: false,
        }
    }
}

impl Settings {
    pub(super) fn check_native_f16(&self, gpu: &Gpu) -> Result<()> {
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
    pub(super) fn check_parts(&self, layout: &ParameterLayout) -> Result<()> {
        let mut specs = layout.trained().iter().enumerate();
        let refused = specs
            .find(|&(index, spec)| layout.is_in_parts(index) && !self.optimizer.takes_parts(spec));
        let Some((_, spec)) = refused else { return Ok(()) };
        let what = format!("the optimizer {:?}", self.optimizer);
        let instead = "its rule needs the whole tensor; take AdamW, Adam, AdamAtan2, Lion or Sgd, \
                       not cautious, leave the tensor out of what Muon takes for hidden, or take a \
                       device with larger bindings";
        Err(parts::unsupported(&what, &spec.name, instead))
    }

    pub(super) fn chosen_weights(&self, given: Option<&ParameterLayout>) -> Result<WeightStorage> {
        let given = given.map(ParameterLayout::storage);
        match (self.weights, given) {
            (Some(wanted), Some(given)) if wanted != given => Err(Error::Setting {
                setting: "weights",
                value: wanted.to_string(),
                range: "the storage of the parameters that are given",
            }),
            (wanted, given) => Ok(wanted.or(given).unwrap_or_default()),
        }
    }

    pub(in crate::train) fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    pub(in crate::train) fn seed(&self) -> u32 {
        self.seed
    }

    /// The device's account of a run that has not begun.
    pub(in crate::train) fn initial_state(&self, parameters: &Parameters) -> StepState {
        let loss_scale = self.chosen_loss_scale(parameters);
        StepState::new(loss_scale.init(), loss_scale.hysteresis())
    }

    /// The rows of the tensor table of a run that has not begun.
    pub(in crate::train) fn initial_tensors(
        &self,
        parameters: &Parameters,
    ) -> Result<Vec<TensorState>> {
        self.rules.states(parameters.trained())
    }

    pub(in crate::train) fn chosen_loss_scale(&self, parameters: &Parameters) -> LossScale {
        self.loss_scale.unwrap_or(match self.precision {
            Precision::F16 if parameters.frozen().is_empty() => LossScale::dynamic(),
            Precision::F16 => LossScale::fine_tuning(),
            Precision::F32 | Precision::Bf16 => LossScale::default(),
        })
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.optimizer.validate()?;
        self.schedule.validate(self.optimizer.learning_rate())?;
        self.ema.map_or(Ok(()), Ema::validate)?;
        self.norm.validate()?;
        self.clip.validate()?;
        self.loss_scale.unwrap_or_default().validate()?;
        self.validate_policies()?;
        let all = self.microbatches.checked_mul(self.ranks());
        if all.is_none_or(|all| all == 0 || u32::try_from(all).is_err()) {
            return Err(Error::Setting {
                setting: "accumulation",
                value: self.microbatches.to_string(),
                range: "at least 1 microbatch per step, and at most 2^32 - 1 on all ranks",
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
}
