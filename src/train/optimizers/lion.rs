//! Lion: steps of one size, in the direction of a sign.

use super::tensor_means::record_agreement;
use super::{Optimizer, Segment, check_decay_rate, check_not_negative};
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernels::{Lion as LionKernel, LionParams};
use crate::plan::Recorder;

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
    fn moments(&self) -> &'static [&'static str] {
        &["m"]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        [0.0, 0.0]
    }

    fn validate(&self) -> Result<()> {
        check_not_negative("learning_rate", self.learning_rate)?;
        check_decay_rate("beta1", self.betas[0])?;
        check_decay_rate("beta2", self.betas[1])?;
        check_not_negative("weight_decay", self.weight_decay)
    }

    /// A cautious update depends on the whole tensor.
    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        !self.cautious
    }

    fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let factors = if self.cautious {
            record_agreement(recorder, segment, self.betas[0])
        } else {
            recorder.unused()
        };
        let state = recorder.step_state();
        recorder.dispatch(&LionKernel {
            params: LionParams {
                chunk_count: segment.chunk_count,
                beta1: self.betas[0] as f32,
                one_minus_beta1: (1.0 - self.betas[0]) as f32,
                beta2: self.betas[1] as f32,
                one_minus_beta2: (1.0 - self.betas[1]) as f32,
                weight_decay: self.weight_decay as f32,
                cautious: u32::from(self.cautious),
                cautious_decay: u32::from(self.cautious_decay),
            },
            state,
            chunks: segment.chunks.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            factors: factors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
            m: segment.moments[0].as_entire_buffer_binding(),
        });
    }
}
