//! The factor on the loss that keeps small f16 gradients above zero, and when training gives up.

use crate::error::{Error, Result};

/// How the loss is scaled before the backward pass (Micikevicius et al. 2018, "Mixed precision
/// training"). Gradients are unscaled as the optimizer reads them, and norms are those of the
/// unscaled gradients, so nothing else depends on the scale.
///
/// f16 gradients need one: below 6e-8 they vanish. bf16 and f32 have the range to do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// The same in every step; 1 is none. A step whose gradients overflow is still skipped.
    Static(f32),
    /// Lower after an overflow, higher after a while without.
    Dynamic(DynamicLossScale),
}

impl Default for LossScale {
    /// None.
    fn default() -> Self {
        Self::Static(1.0)
    }
}

/// A loss scale that looks for the largest value without overflow, as `torch.amp.GradScaler`, with
/// the hysteresis of Megatron-LM and a minimum. All of it happens on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicLossScale {
    /// Scale of the first step.
    pub init: f32,
    /// Factor after `interval` clean steps in a row; above 1. A growth beyond f32's range, or
    /// beyond `max`, does not happen.
    pub growth: f32,
    /// Factor at an overflow; in (0, 1).
    pub backoff: f32,
    /// Clean steps until the scale grows; at least 1.
    pub interval: u32,
    /// The scale does not fall below.
    pub min: f32,
    /// The scale does not rise above.
    pub max: f32,
    /// The scale backs off at this many overflows, not at the first; 1 for every one.
    pub hysteresis: u32,
    /// When the count of overflows starts anew.
    pub refill: Refill,
    /// Training gives up at an overflow with the scale at `min`.
    pub give_up_at_min: bool,
}

/// When the count of overflows towards [`DynamicLossScale::hysteresis`] starts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refill {
    /// When the scale grows, as in Megatron-LM.
    #[default]
    OnGrowth,
    /// At every clean step, as in Apex.
    EveryCleanStep,
}

impl Default for DynamicLossScale {
    /// From 65,536 by factors of 2 and 0.5, every 2,000 steps, not below 1: PyTorch's defaults with
    /// a minimum.
    fn default() -> Self {
        Self {
            init: 65_536.0,
            growth: 2.0,
            backoff: 0.5,
            interval: 2000,
            min: 1.0,
            max: f32::MAX,
            hysteresis: 1,
            refill: Refill::OnGrowth,
            give_up_at_min: true,
        }
    }
}

impl LossScale {
    /// [`Dynamic`](Self::Dynamic) with its defaults.
    pub fn dynamic() -> Self {
        Self::Dynamic(DynamicLossScale::default())
    }

    /// [`Dynamic`](Self::Dynamic), from 1,024: for a model that was trained before, whose gradients
    /// are larger than those of one that was just initialised. 65,536 times them leaves f16 in the
    /// first step, and each step on the way down is skipped.
    pub fn fine_tuning() -> Self {
        Self::Dynamic(DynamicLossScale { init: 1024.0, ..DynamicLossScale::default() })
    }

    /// The scale of the first step.
    pub fn init(&self) -> f32 {
        match self {
            Self::Static(scale) => *scale,
            Self::Dynamic(dynamic) => dynamic.init,
        }
    }

    /// Overflows until the first back-off.
    pub(crate) fn hysteresis(&self) -> u32 {
        match self {
            Self::Static(_) => 1,
            Self::Dynamic(dynamic) => dynamic.hysteresis,
        }
    }

    /// Whether gradients can overflow because of it: then the largest f32 counts as overflow too.
    pub(crate) fn is_on(&self) -> bool {
        *self != Self::default()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let check = |setting, value: f32, fits: bool, range| {
            if fits {
                Ok(())
            } else {
                Err(Error::Setting { setting, value: value.to_string(), range })
            }
        };
        let positive = |x: f32| x.is_normal() && x > 0.0;
        let scale = self.init();
        check("loss scale", scale, positive(scale), "a normal number above 0")?;
        let Self::Dynamic(d) = self else { return Ok(()) };
        let growth = d.growth > 1.0 && d.growth.is_finite();
        check("loss scale growth", d.growth, growth, "finite and above 1")?;
        check("loss scale backoff", d.backoff, d.backoff > 0.0 && d.backoff < 1.0, "in (0, 1)")?;
        check("loss scale minimum", d.min, positive(d.min), "a normal number above 0")?;
        let between = d.min <= d.init && d.init <= d.max;
        check("loss scale", d.init, between, "between its minimum and its maximum")?;
        let interval = d.interval as f32;
        check("loss scale interval", interval, d.interval > 0, "at least 1 step")?;
        let hysteresis = d.hysteresis as f32;
        check("loss scale hysteresis", hysteresis, d.hysteresis > 0, "at least 1 overflow")
    }
}
