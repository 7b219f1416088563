//! StableAdamW: AdamW that slows down where gradients outgrow their second moment.

use super::adamw::AdamW;
use super::tensor_means::TensorMeans;
use super::{Optimizer, Rule, Segment, rounded};
use crate::error::Result;
use crate::kernels::{
    FACTOR_LEARNING_RATE, RULE_INVERSE_ROOT_ABOVE, SquaredRatio, SquaredRatioParams,
};
use crate::record::Recorder;

/// StableAdamW (Wortsman et al. 2023, <https://arxiv.org/abs/2304.13013>, as optimi has it): the
/// learning rate of a tensor falls by the RMS of its updates, where that exceeds 1.
///
/// ```text
/// m = β1 m + (1-β1) g        v = β2 v + (1-β2) g²        m̂ = m/(1-β1ᵗ)        v̂ = v/(1-β2ᵗ)
/// rms = √mean(g² / max(v̂, eps²)), the mean over the tensor        η = lr / max(1, rms)
/// w -= η (m̂ / (√v̂ + eps) + decay w)
/// ```
///
/// Take it where loss spikes follow a sudden growth of gradients, which a slow second moment
/// underestimates; it does the work of clipping tensor by tensor and needs no threshold. It keeps 8
/// bytes per parameter and takes a pass more than AdamW, over gradient and second moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StableAdamW {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment; see [the module](super#eps-in-low-precision).
    pub eps: f64,
    /// Share of a weight removed per unit of learning rate; by default only from tensors with two
    /// or more dimensions.
    pub weight_decay: f64,
    /// See [`AdamW::cautious_decay`].
    pub cautious_decay: bool,
}

impl Default for StableAdamW {
    /// Learning rate 1e-3, betas (0.9, 0.99), eps 1e-6, weight decay 0.01: those of optimi.
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: [0.9, 0.99],
            eps: 1e-6,
            weight_decay: 0.01,
            cautious_decay: false,
        }
    }
}

impl StableAdamW {
    fn adamw(&self) -> AdamW {
        let Self { learning_rate, betas, eps, weight_decay, cautious_decay } = *self;
        AdamW { learning_rate, betas, eps, weight_decay, cautious_decay, ..AdamW::default() }
    }
}

impl Optimizer for StableAdamW {
    fn name(&self) -> &'static str {
        "StableAdamW"
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

    fn eps(&self) -> Option<f64> {
        Some(self.eps)
    }

    fn validate(&self) -> Result<()> {
        self.adamw().validate()
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let means = TensorMeans::new(recorder.gpu(), segment);
        let [_, _, beta2, one_minus_beta2] = rounded(self.betas);
        recorder.dispatch(&SquaredRatio {
            params: SquaredRatioParams {
                chunk_count: segment.chunk_count,
                beta2,
                one_minus_beta2,
                eps: self.eps as f32,
            },
            state: recorder.step_state(),
            chunks: segment.chunks.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            v: segment.moments[1].as_entire_buffer_binding(),
            partials: means.partials.as_entire_buffer_binding(),
        });
        means.record(recorder, RULE_INVERSE_ROOT_ABOVE, 1.0);
        let params = self.adamw().scaled_params(segment, FACTOR_LEARNING_RATE);
        Rule::new(params).bind("factors", &means.factors)
    }
}
