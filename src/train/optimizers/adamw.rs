//! AdamW: Adam with decoupled weight decay.

use super::tensor_means::{record_agreement, record_eps_shares};
use super::{Optimizer, Segment, check_decay_rate, check_not_negative};
use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::kernels::{
    Adamw, AdamwParams, AdamwScaled, AdamwScaledParams, Amsgrad, AmsgradParams, FACTOR_AGREEING,
    FACTOR_NONE,
};
use crate::plan::Recorder;

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
    fn moments(&self) -> &'static [&'static str] {
        if self.amsgrad { &["m", "v", "v_max"] } else { &["m", "v"] }
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        self.betas
    }

    fn validate(&self) -> Result<()> {
        check_not_negative("learning_rate", self.learning_rate)?;
        check_decay_rate("beta1", self.betas[0])?;
        check_decay_rate("beta2", self.betas[1])?;
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

    fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        if self.amsgrad {
            let settings = AmsgradParams {
                weight_decay: self.weight_decay as f32,
                cautious_decay: u32::from(self.cautious_decay),
                ..amsgrad_params(segment, self.betas, self.eps)
            };
            record_amsgrad(recorder, segment, settings);
        } else if self.cautious || self.cautious_decay {
            self.record_cautious(recorder, segment);
        } else {
            self.record_plain(recorder, segment);
        }
    }

    fn record_eps_shares(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        shares: &wgpu::Buffer,
    ) -> bool {
        let divisor = segment.moments.last().expect("two moments or three");
        record_eps_shares(recorder, segment, divisor, self.eps, shares)
    }
}

impl AdamW {
    fn record_plain(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let state = recorder.step_state();
        recorder.dispatch(&Adamw {
            params: AdamwParams {
                chunk_count: segment.chunk_count,
                beta1: self.betas[0] as f32,
                one_minus_beta1: (1.0 - self.betas[0]) as f32,
                beta2: self.betas[1] as f32,
                one_minus_beta2: (1.0 - self.betas[1]) as f32,
                eps: self.eps as f32,
                weight_decay: self.weight_decay as f32,
            },
            state,
            chunks: segment.chunks.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
            m: segment.moments[0].as_entire_buffer_binding(),
            v: segment.moments[1].as_entire_buffer_binding(),
        });
    }

    fn record_cautious(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let (factor, factors) = if self.cautious {
            (FACTOR_AGREEING, record_agreement(recorder, segment, self.betas[0]))
        } else {
            (FACTOR_NONE, recorder.unused())
        };
        let scaling = Scaling { factor, factors, cautious_decay: self.cautious_decay };
        record_scaled(recorder, segment, self, &scaling);
    }
}

/// What [`record_scaled`] does beside AdamW.
pub(super) struct Scaling {
    /// What the factors are for.
    pub factor: u32,
    /// (tensors) f32
    pub factors: wgpu::Buffer,
    pub cautious_decay: bool,
}

/// Records AdamW with a factor per tensor; `settings` without its options.
pub(super) fn record_scaled(
    recorder: &mut Recorder<'_>,
    segment: &Segment<'_>,
    settings: &AdamW,
    scaling: &Scaling,
) {
    let AdamW { betas, eps, weight_decay, .. } = *settings;
    let state = recorder.step_state();
    recorder.dispatch(&AdamwScaled {
        params: AdamwScaledParams {
            chunk_count: segment.chunk_count,
            beta1: betas[0] as f32,
            one_minus_beta1: (1.0 - betas[0]) as f32,
            beta2: betas[1] as f32,
            one_minus_beta2: (1.0 - betas[1]) as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            factor: scaling.factor,
            cautious_decay: u32::from(scaling.cautious_decay),
        },
        state,
        chunks: segment.chunks.as_entire_buffer_binding(),
        tensors: segment.tensors.as_entire_buffer_binding(),
        factors: scaling.factors.as_entire_buffer_binding(),
        gradient: segment.gradient.as_entire_buffer_binding(),
        weight: segment.weight.as_entire_buffer_binding(),
        m: segment.moments[0].as_entire_buffer_binding(),
        v: segment.moments[1].as_entire_buffer_binding(),
    });
}

/// Parameters of AMSGrad without decay of either kind.
pub(super) fn amsgrad_params(segment: &Segment<'_>, betas: [f64; 2], eps: f64) -> AmsgradParams {
    AmsgradParams {
        chunk_count: segment.chunk_count,
        beta1: betas[0] as f32,
        one_minus_beta1: (1.0 - betas[0]) as f32,
        beta2: betas[1] as f32,
        one_minus_beta2: (1.0 - betas[1]) as f32,
        eps: eps as f32,
        weight_decay: 0.0,
        l2_decay: 0.0,
        cautious_decay: 0,
    }
}

/// Records AMSGrad over three moments.
pub(super) fn record_amsgrad(
    recorder: &mut Recorder<'_>,
    segment: &Segment<'_>,
    params: AmsgradParams,
) {
    let state = recorder.step_state();
    recorder.dispatch(&Amsgrad {
        params,
        state,
        chunks: segment.chunks.as_entire_buffer_binding(),
        tensors: segment.tensors.as_entire_buffer_binding(),
        gradient: segment.gradient.as_entire_buffer_binding(),
        weight: segment.weight.as_entire_buffer_binding(),
        m: segment.moments[0].as_entire_buffer_binding(),
        v: segment.moments[1].as_entire_buffer_binding(),
        v_max: segment.moments[2].as_entire_buffer_binding(),
    });
}
