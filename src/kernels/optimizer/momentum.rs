//! Rules that keep a momentum, or nothing.

use crate::kernel::shared::{AGREES, CAUTIOUS_DECAY};
use crate::{update_rule, wgsl};

update_rule! {
    /// Gradient descent with momentum, as torch.optim.SGD: the weight decay is the factor of the
    /// weight in the gradient.
    pub Sgd = [wgsl!("../../../shaders/optimizer/sgd.wgsl")];
    uniform SgdParams {
        /// Decay of the momentum buffer; 0 leaves that buffer alone.
        momentum: f32,
        /// 1 - dampening is the gradient's share in the momentum buffer after the first step.
        dampening: f32,
        /// 1 looks ahead by one momentum step, 0 does not.
        nesterov: u32,
    }
    buffers {
        /// As the gradient, advanced; its contents before the first applied step do not matter.
        /// Any buffer of one quad or more if momentum is 0.
        Write momentum_buffer,
    }
}

update_rule! {
    /// Lion (Chen et al., 2023): the sign of a blend of momentum and gradient.
    pub Lion = [AGREES, CAUTIOUS_DECAY, wgsl!("../../../shaders/optimizer/lion.wgsl")];
    uniform LionParams {
        /// Share of the momentum in the blend.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the momentum.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// 1 keeps only elements that agree in sign with the gradient, times the factor.
        cautious: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// Momentum, as the gradient, advanced.
        Write m,
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
    }
}
