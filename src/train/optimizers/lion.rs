//! Lion: steps of one size, in the direction of a sign.

use std::rc::Rc;

use super::tensor_means::record_agreement;
use super::{Optimizer, Rule, Segment, check_not_negative, check_rates, rounded};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernel::MomentStorage;
use crate::kernels::LionParams;
use crate::record::Recorder;

/// Lion (Chen et al. 2023, <https://arxiv.org/abs/2302.06675>): the sign of a blend of momentum and
/// gradient.
///
/// ```text
/// u = sign(β1 m + (1-β1) g)        w -= lr (u + decay w)        m = β2 m + (1-β2) g
/// ```
///
/// Take it where memory is short and batches are large: it keeps 4 bytes per parameter, in one
/// dispatch, and has no eps. Every element moves by the whole learning rate, so that should be 3 to
/// 10 times smaller than AdamW's, and the weight decay as much larger.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Share of the momentum in the blend, and its decay rate.
    pub betas: [f64; 2],
    /// Share of a weight removed per unit of learning rate; by default only from tensors with two
    /// or more dimensions.
    pub weight_decay: f64,
    /// See [`AdamW::cautious`](super::AdamW::cautious); it takes a pass more.
    pub cautious: bool,
    /// See [`AdamW::cautious_decay`](super::AdamW::cautious_decay).
    pub cautious_decay: bool,
}

impl Default for Lion {
    /// Learning rate 1e-4, betas (0.9, 0.99), weight decay 0.1.
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            betas: [0.9, 0.99],
            weight_decay: 0.1,
            cautious: false,
            cautious_decay: false,
        }
    }
}

impl Optimizer for Lion {
    fn name(&self) -> &'static str {
        "Lion"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["m"]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn in_storage(&self, storage: MomentStorage) -> Option<Rc<dyn Optimizer>> {
        self.with_moments(storage).valid()
    }

    fn validate(&self) -> Result<()> {
        check_rates(self.learning_rate, self.betas)?;
        check_not_negative("weight_decay", self.weight_decay)
    }

    /// A cautious update depends on the whole tensor.
    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        !self.cautious
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.betas);
        let rule = Rule::new(LionParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            cautious: u32::from(self.cautious),
            cautious_decay: u32::from(self.cautious_decay),
        });
        if !self.cautious {
            return rule;
        }
        rule.bind("factors", &record_agreement(recorder, segment, self.betas[0]))
    }
}
