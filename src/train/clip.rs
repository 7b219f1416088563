//! How gradients are clipped. No variant costs a pass of its own: the norm comes from the scan
//! that checks for overflow, and the optimizer multiplies with the coefficient as it reads.

use crate::error::{Error, Result};

/// Bound on every |gradient| an optimizer squares, so that second moments stay finite in f32.
pub const ELEMENT_GUARD: f32 = 1e18;

/// A rule for clipping gradients, after unscaling and before the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Clip {
    /// Gradients pass as they are. Norms are measured all the same.
    #[default]
    None,
    /// Scales all gradients by `max / norm` where their norm exceeds the maximum (Pascanu et al.
    /// 2013; `torch.nn.utils.clip_grad_norm_`, without its 1e-6). L2, unless
    /// [`TrainerBuilder::norm`](super::TrainerBuilder::norm) says otherwise.
    Norm(f32),
    /// The same by the L∞ norm, the largest |gradient|, which is then what is measured.
    InfinityNorm(f32),
    /// Clamps every element to ±bound (`torch.nn.utils.clip_grad_value_`).
    Value(f32),
}

impl Clip {
    /// The largest norm that passes.
    pub(crate) fn max_norm(self) -> f32 {
        match self {
            Self::Norm(max) | Self::InfinityNorm(max) => max,
            Self::None | Self::Value(_) => f32::MAX,
        }
    }

    /// The largest |gradient| that passes.
    pub(crate) fn max_value(self) -> f32 {
        match self {
            Self::Value(bound) => bound.min(ELEMENT_GUARD),
            _ => ELEMENT_GUARD,
        }
    }

    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Norm(bound) | Self::InfinityNorm(bound) | Self::Value(bound)
                if bound.is_finite() && bound > 0.0 =>
            {
                Ok(())
            }
            Self::Norm(bound) | Self::InfinityNorm(bound) | Self::Value(bound) => {
                Err(Error::Setting {
                    setting: "clip threshold",
                    value: bound.to_string(),
                    range: "finite and above 0",
                })
            }
        }
    }
}
