//! Stochastic gradient descent with momentum.

use super::{Optimizer, Rule, Segment, check_decay_rate, check_not_negative};
use crate::error::{Error, Result};
use crate::graph::ParameterSpec;
use crate::kernels::SgdParams;
use crate::record::Recorder;

/// SGD, as `torch.optim.SGD`: weight decay is an L2 penalty, added to the gradient after clipping;
/// the momentum buffer starts as the first gradient.
///
/// ```text
/// g += decay w      b = μ b + (1-dampening) g      w -= lr (nesterov ? g + μ b : b)
/// ```
///
/// It keeps 4 bytes per parameter, none without momentum, in one dispatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Base learning rate.
    pub learning_rate: f64,
    /// Decay rate μ of the momentum buffer; 0 for plain SGD, which keeps no buffer.
    pub momentum: f64,
    /// Share of a new gradient that does not enter the momentum buffer.
    pub dampening: f64,
    /// Looks ahead by one momentum step (Nesterov).
    pub nesterov: bool,
    /// Factor of the weight in the gradient; by default only for tensors with two or more
    /// dimensions.
    pub weight_decay: f64,
}

impl Default for Sgd {
    /// Learning rate 1e-2, momentum 0.9, no dampening, no Nesterov, no weight decay.
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            momentum: 0.9,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "Sgd"
    }

    fn moments(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum"] }
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn validate(&self) -> Result<()> {
        check_not_negative("learning_rate", self.learning_rate)?;
        check_decay_rate("momentum", self.momentum)?;
        check_decay_rate("dampening", self.dampening)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::Setting {
                setting: "nesterov",
                value: "true".into(),
                range: "used with momentum and without dampening",
            });
        }
        Ok(())
    }

    fn takes_parts(&self, _: &ParameterSpec) -> bool {
        true
    }

    fn rule(&self, _recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        Rule::new(SgdParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            momentum: self.momentum as f32,
            dampening: self.dampening as f32,
            nesterov: u32::from(self.nesterov),
        })
    }
}
