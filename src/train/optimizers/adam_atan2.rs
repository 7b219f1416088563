//! Adam-atan2: AdamW without eps.

use super::{Optimizer, Rule, Segment, check_not_negative, check_positive, check_rates, rounded};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernels::AdamAtan2Params;
use crate::record::Recorder;

/// Adam-atan2 (Everett et al. 2024, <https://arxiv.org/abs/2407.05872>): the angle of a quotient
/// for the quotient, so that there is no eps, updates do not depend on the scale of gradients, and
/// none exceeds a π/2.
///
/// ```text
/// m = β1 m + (1-β1) g        v = β2 v + (1-β2) g²
/// w -= lr (a atan2(m/(1-β1ᵗ), b √(v/(1-β2ᵗ))) + decay w)
/// ```
///
/// Take it where gradients differ so much between layers or over time that no eps suits all. The
/// independence of scale ends where squares leave f32, for gradients under 1e-19. It keeps 8 bytes
/// per parameter, in one dispatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamAtan2 {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Factor on the angle; 1.27, which is 4/π, makes it 1 where m and √v are equal.
    pub a: f64,
    /// Factor on the root of the second moment: above 1 the angle is closer to the quotient and its
    /// bound further away.
    pub b: f64,
    /// Share of a weight removed per unit of learning rate; by default only from tensors with two
    /// or more dimensions.
    pub weight_decay: f64,
    /// See [`AdamW::cautious_decay`](super::AdamW::cautious_decay).
    pub cautious_decay: bool,
}

impl Default for AdamAtan2 {
    /// Learning rate 1e-3, betas (0.9, 0.99), a 1.27, b 1, weight decay 0.01.
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: [0.9, 0.99],
            a: 1.27,
            b: 1.0,
            weight_decay: 0.01,
            cautious_decay: false,
        }
    }
}

impl Optimizer for AdamAtan2 {
    fn name(&self) -> &'static str {
        "AdamAtan2"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn squares(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        self.betas
    }

    fn validate(&self) -> Result<()> {
        check_rates(self.learning_rate, self.betas)?;
        check_positive("a", self.a)?;
        check_positive("b", self.b)?;
        check_not_negative("weight_decay", self.weight_decay)
    }

    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        true
    }

    fn rule(&self, _recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let [beta1, one_minus_beta1, beta2, one_minus_beta2] = rounded(self.betas);
        Rule::new(AdamAtan2Params {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            a: self.a as f32,
            b: self.b as f32,
            cautious_decay: u32::from(self.cautious_decay),
        })
    }
}
