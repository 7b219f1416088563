//! What is known of one step, as named numbers.

use std::borrow::Cow;

use crate::step::Reason;
use crate::train::{Telemetry, TensorTelemetry};

/// Names of the scalars that [`Record::from`] a [`Telemetry`] gives, and of those that the parts
/// of this module know if the program adds them.
pub mod scalar {
    /// Mean loss of the step.
    pub const LOSS: &str = "loss";
    /// Global norm of the gradients before clipping.
    pub const GRADIENT_NORM: &str = "gradient_norm";
    /// Factor of the norm clip, at most 1.
    pub const CLIP_COEFFICIENT: &str = "clip_coefficient";
    /// Loss scale the step ran with.
    pub const LOSS_SCALE: &str = "loss_scale";
    /// Learning rate of the step.
    pub const LEARNING_RATE: &str = "learning_rate";
    /// 1 for a step that changed something, 0 for a skipped one.
    pub const APPLIED: &str = "applied";
    /// Steps skipped so far, this one included.
    pub const SKIPPED_TOTAL: &str = "skipped_total";
    /// Gradient elements that were NaN or Inf.
    pub const NONFINITE_COUNT: &str = "nonfinite_count";
    /// Gradient elements that were exactly zero.
    pub const ZERO_COUNT: &str = "zero_count";

    /// Loss on data that is not trained on, measured after the step.
    pub const VALIDATION_LOSS: &str = "validation_loss";
    /// Tokens trained on in a second.
    pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
    /// Share of elements or tensors that a clip other than the global norm's reduced.
    pub const CLIPPED_SHARE: &str = "clipped_share";

    /// Global norm of the gradients after clipping; from
    /// [`RunStatistics`](crate::watch::RunStatistics).
    pub const CLIPPED_NORM: &str = "clipped_norm";
    /// Share of clipped steps over a window; from [`RunStatistics`](crate::watch::RunStatistics).
    pub const CLIP_SHARE: &str = "clip_share";
    /// Share of spikes among the losses; from [`RunStatistics`](crate::watch::RunStatistics).
    pub const LOSS_SPIKE_SCORE: &str = "loss_spike_score";
    /// Share of spikes among the norms; from [`RunStatistics`](crate::watch::RunStatistics).
    pub const NORM_SPIKE_SCORE: &str = "norm_spike_score";
}

/// One step: named scalars in the order in which they were given, and events in words.
///
/// A value of one tensor is called `statistic/tensor`, as in
/// `gradient_norm/blocks.0.attention.qkv.weight`; TensorBoard groups by what stands before the
/// slash.
///
/// ```
/// use evenkeel::watch::Record;
///
/// let mut record = Record::new(7).with("loss", 2.5).with("validation_loss", 2.7);
/// record.add_tensor("gradient_norm", "head.weight", 0.25);
/// record.events.push("learning rate halved".into());
/// assert_eq!(record.get("loss"), Some(2.5));
/// assert_eq!(record.tensors("gradient_norm").collect::<Vec<_>>(), [("head.weight", 0.25)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Number of the step.
    pub step: u64,
    scalars: Vec<(Cow<'static, str>, f64)>,
    /// What happened in this step, in words.
    pub events: Vec<String>,
}

impl Record {
    /// A step of which nothing is known yet.
    pub const fn new(step: u64) -> Self {
        Self { step, scalars: Vec::new(), events: Vec::new() }
    }

    /// [`set`](Self::set), for building a record in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: f64) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a scalar, or gives the one of this name another value.
    ///
    /// # Panics
    /// If the name is empty, or one of `step` and `events`, which every record has.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: f64) {
        let name = name.into();
        assert!(!["", "step", "events"].contains(&&*name), "{name:?} cannot name a scalar");
        match self.scalars.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.scalars.push((name, value)),
        }
    }

    /// Sets what is known of one tensor: `gradient_norm/name`, `largest_gradient/name`,
    /// `weight_rms/name`, `largest_weight/name`, `update_to_weight/name`, `frozen_share/name`,
    /// `clipped_share/name` and, where there is one, `eps_share/name`; and an event where eps holds
    /// back too large a share.
    pub fn add_tensor_telemetry(&mut self, tensor: &TensorTelemetry) {
        for (statistic, value) in [
            ("gradient_norm", tensor.gradient_norm),
            ("largest_gradient", tensor.largest_gradient),
            ("weight_rms", tensor.weight_rms),
            ("largest_weight", tensor.largest_weight),
            ("update_to_weight", tensor.update_to_weight),
            ("frozen_share", tensor.frozen_share),
            ("clipped_share", tensor.clipped_share),
        ] {
            self.add_tensor(statistic, &tensor.name, value);
        }
        if let Some(share) = tensor.eps_share {
            self.add_tensor("eps_share", &tensor.name, share);
        }
        self.events.extend(tensor.eps_warning());
    }

    /// Adds the value of one tensor, which must not be there yet: there may be tens of thousands,
    /// so this is not checked.
    pub fn add_tensor(&mut self, statistic: &str, tensor: &str, value: f64) {
        self.scalars.push((format!("{statistic}/{tensor}").into(), value));
    }

    /// The scalar of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(known, _)| known == name).map(|&(_, value)| value)
    }

    /// All scalars, those of tensors included.
    pub fn scalars(&self) -> impl Iterator<Item = (&str, f64)> {
        self.scalars.iter().map(|(name, value)| (&**name, *value))
    }

    /// One statistic of every tensor that has it, by the tensor's name.
    pub fn tensors<'a>(&'a self, statistic: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.scalars().filter_map(move |(name, value)| {
            let tensor = name.strip_prefix(statistic)?.strip_prefix('/')?;
            Some((tensor, value))
        })
    }

    /// False for a step that was skipped; a record that does not say was applied.
    pub fn applied(&self) -> bool {
        self.get(scalar::APPLIED) != Some(0.0)
    }

    /// Whether the step was applied with gradients that a clip had made smaller.
    pub fn clipped(&self) -> bool {
        let norm = self.get(scalar::CLIP_COEFFICIENT).is_some_and(|coefficient| coefficient < 1.0);
        let parts = self.get(scalar::CLIPPED_SHARE).is_some_and(|share| share > 0.0);
        self.applied() && (norm || parts)
    }

    /// Global norm of the gradients after clipping by it; in f32, as its factors come from the
    /// device.
    pub fn clipped_norm(&self) -> Option<f64> {
        let coefficient = self.get(scalar::CLIP_COEFFICIENT).unwrap_or(1.0);
        let norm = self.get(scalar::GRADIENT_NORM)? * coefficient;
        Some(f64::from(norm as f32))
    }
}

impl From<&Telemetry> for Record {
    /// Every number of the telemetry under its own name (see [`scalar`]); a skipped step gives an
    /// event as well.
    fn from(telemetry: &Telemetry) -> Self {
        let scalars = [
            (scalar::LOSS, f64::from(telemetry.loss)),
            (scalar::GRADIENT_NORM, telemetry.gradient_norm.into()),
            (scalar::CLIP_COEFFICIENT, telemetry.clip_coefficient.into()),
            (scalar::LOSS_SCALE, telemetry.loss_scale.into()),
            (scalar::LEARNING_RATE, telemetry.learning_rate.into()),
            (scalar::APPLIED, u8::from(telemetry.applied).into()),
            (scalar::SKIPPED_TOTAL, telemetry.skipped_total.into()),
            (scalar::NONFINITE_COUNT, telemetry.nonfinite_count.into()),
            (scalar::ZERO_COUNT, telemetry.zero_count.into()),
        ];
        let scalars = scalars.map(|(name, value)| (Cow::Borrowed(name), value)).into();
        let skipped = (!telemetry.applied).then(|| match telemetry.reason {
            Reason::NonFiniteGradient => {
                let count = telemetry.nonfinite_count;
                format!("skipped: {count} gradient elements are NaN or Inf")
            }
            Reason::NonFiniteLoss => format!("skipped: the loss is {}", telemetry.loss),
            Reason::NonFiniteState => "skipped: new running statistics are NaN or Inf".into(),
            reason => format!("skipped: {reason:?}"),
        });
        Self { step: telemetry.step, scalars, events: skipped.into_iter().collect() }
    }
}
