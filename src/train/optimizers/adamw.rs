//! AdamW: Adam with decoupled weight decay.

use std::rc::Rc;

use super::tensor_means::record_agreement;
use super::{Optimizer, Rule, Segment, check_not_negative, check_rates, rounded};
use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::kernel::MomentStorage;
use crate::kernels::{AdamwParams, AdamwScaledParams, AmsgradParams, FACTOR_AGREEING, FACTOR_NONE};
use crate::record::Recorder;

/// AdamW (Loshchilov and Hutter 2019), as `torch.optim.AdamW`: eps outside the root, and weight
/// decay applied to the weights, not through the gradient. The default for transformers.
///
/// ```text
/// m = β1 m + (1-β1) g        v = β2 v + (1-β2) g²
/// w -= lr (m/(1-β1ᵗ) / (√(v/(1-β2ᵗ)) + eps) + decay w)
/// ```
///
/// It keeps 8 bytes per parameter, 12 with `amsgrad`, and takes one dispatch; `cautious` takes a
/// pass more, over gradient and first moment. For what eps means in low precision see
/// [the module](super#eps-in-low-precision).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight removed per unit of learning rate; by default only from tensors with two
    /// or more dimensions.
    pub weight_decay: f64,
    /// Divides by the largest second moment so far (Reddi, Kale and Kumar 2018, as PyTorch, whose
    /// maximum is that of v before its bias correction), so that step sizes do not grow again. Not
    /// together with `cautious`.
    pub amsgrad: bool,
    /// Leaves elements alone whose update points against the gradient of this step, and makes the
    /// others larger by as much: u · \[u g > 0\] / max(mean \[u g > 0\], 1e-3), the mean being that
    /// of the tensor (Liang et al. 2024, <https://arxiv.org/abs/2411.16085>).
    pub cautious: bool,
    /// Decays only weights that the update makes smaller as well: where u w > 0
    /// (<https://arxiv.org/abs/2510.12402>).
    pub cautious_decay: bool,
}

impl Default for AdamW {
    /// Learning rate 1e-3, betas (0.9, 0.999), eps 1e-8, weight decay 0.01: PyTorch's defaults.
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            amsgrad: false,
            cautious: false,
            cautious_decay: false,
        }
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "AdamW"
    }

    fn moments(&self) -> &'static [&'static str] {
        if self.amsgrad { &["m", "v", "v_max"] } else { &["m", "v"] }
    }

    fn squares(&self) -> &'static [&'static str] {
        &["v", "v_max"]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        self.betas
    }

    fn eps(&self) -> Option<f64> {
        Some(self.eps)
    }

    fn in_storage(&self, storage: MomentStorage) -> Option<Rc<dyn Optimizer>> {
        self.with_moments(storage).valid()
    }

    fn validate(&self) -> Result<()> {
        check_rates(self.learning_rate, self.betas)?;
        check_not_negative("eps", self.eps)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        if self.amsgrad && self.cautious {
            return Err(Error::Setting {
                setting: "cautious",
                value: "true".into(),
                range: "used without amsgrad",
            });
        }
        Ok(())
    }

    /// A cautious update depends on the whole tensor.
    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        !self.cautious
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        if self.amsgrad {
            Rule::new(AmsgradParams {
                weight_decay: self.weight_decay as f32,
                cautious_decay: u32::from(self.cautious_decay),
                ..amsgrad_params(segment, self.betas, self.eps)
            })
        } else if self.cautious {
            let factors = record_agreement(recorder, segment, self.betas[0]);
            Rule::new(self.scaled_params(segment, FACTOR_AGREEING)).bind("factors", &factors)
        } else if self.cautious_decay {
            Rule::new(self.scaled_params(segment, FACTOR_NONE))
        } else {
            Rule::new(self.params(segment))
        }
    }
}

impl AdamW {
    /// Parameters without the options.
    fn params(&self, segment: &Segment<'_>) -> AdamwParams {
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.betas);
        AdamwParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps: self.eps as f32,
        }
    }

    /// Parameters with a factor per tensor, which is for what `factor` says.
    pub(super) fn scaled_params(&self, segment: &Segment<'_>, factor: u32) -> AdamwScaledParams {
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.betas);
        AdamwScaledParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps: self.eps as f32,
            factor,
            cautious_decay: u32::from(self.cautious_decay),
        }
    }
}

/// Parameters of AMSGrad without decay of either kind.
pub(super) fn amsgrad_params(segment: &Segment<'_>, betas: [f64; 2], eps: f64) -> AmsgradParams {
    let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(betas);
    AmsgradParams {
        chunk_count: segment.chunk_count,
        weight_decay: 0.0,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        eps: eps as f32,
        l2_decay: 0.0,
        cautious_decay: 0,
    }
}
