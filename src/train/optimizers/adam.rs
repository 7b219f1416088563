//! Adam, with weight decay through the gradient.

use std::rc::Rc;

use super::adamw::amsgrad_params;
use super::{Optimizer, Rule, Segment, check_not_negative, check_rates, rounded};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernel::MomentStorage;
use crate::kernels::{AdamParams, AmsgradParams};
use crate::record::Recorder;

/// Adam (Kingma and Ba 2015), as `torch.optim.Adam`: weight decay is an L2 penalty, added to the
/// gradient after clipping.
///
/// ```text
/// g += decay w      m = β1 m + (1-β1) g      v = β2 v + (1-β2) g²
/// w -= lr m/(1-β1ᵗ) / (√(v/(1-β2ᵗ)) + eps)
/// ```
///
/// It keeps 8 bytes per parameter, 12 with `amsgrad`, in one dispatch. Take [`AdamW`](super::AdamW)
/// where a penalty is not wanted for its own sake: here its effect fades where gradients are large.
/// For what eps means in low precision see [the module](super#eps-in-low-precision).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the weight in the gradient; by default only for tensors with two or more
    /// dimensions.
    pub weight_decay: f64,
    /// Divides by the largest second moment so far; see [`AdamW::amsgrad`](super::AdamW::amsgrad).
    pub amsgrad: bool,
}

impl Default for Adam {
    /// Learning rate 1e-3, betas (0.9, 0.999), eps 1e-8, no weight decay: PyTorch's defaults.
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
        }
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "Adam"
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
        check_not_negative("weight_decay", self.weight_decay)
    }

    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        true
    }

    fn rule(&self, _recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        if self.amsgrad {
            return Rule::new(AmsgradParams {
                l2_decay: self.weight_decay as f32,
                ..amsgrad_params(segment, self.betas, self.eps)
            });
        }
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.betas);
        Rule::new(AdamParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps: self.eps as f32,
        })
    }
}
