//! Rules over the two moments of Adam.

use super::rule::adam_rule;
use crate::kernel::shared::{AGREES, CAUTIOUS_DECAY};
use crate::wgsl;

/// [`AdamwScaledParams::factor`]: none.
pub const FACTOR_NONE: u32 = 0;

/// [`AdamwScaledParams::factor`]: on the learning rate.
pub const FACTOR_LEARNING_RATE: u32 = 1;

/// [`AdamwScaledParams::factor`]: on the elements that agree in sign with the gradient.
pub const FACTOR_AGREEING: u32 = 2;

adam_rule! {
    /// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    pub Adamw = [wgsl!("../../../shaders/optimizer/adamw.wgsl")];
    uniform AdamwParams {
        /// Added to the root of the second moment.
        eps: f32,
    }
    buffers {}
}

adam_rule! {
    /// Adam (Kingma and Ba, 2015) with L2 decay, as torch.optim.Adam: the weight decay is the
    /// factor of the weight in the gradient.
    pub Adam = [wgsl!("../../../shaders/optimizer/adam.wgsl")];
    uniform AdamParams {
        /// Added to the root of the second moment.
        eps: f32,
    }
    buffers {}
}

adam_rule! {
    /// AMSGrad (Reddi, Kale and Kumar, 2018) over AdamW or Adam, as PyTorch: the maximum is that of
    /// the uncorrected second moment.
    pub Amsgrad = [AGREES, CAUTIOUS_DECAY, wgsl!("../../../shaders/optimizer/amsgrad.wgsl")];
    uniform AmsgradParams {
        /// Added to the root of the second moment.
        eps: f32,
        /// Factor of the weight in the gradient.
        l2_decay: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// Largest second moment so far, as the gradient, advanced.
        Write v_max,
    }
}

adam_rule! {
    /// AdamW with a factor per tensor: StableAdamW, cautious updates; and with cautious decay.
    pub AdamwScaled = [
        AGREES, CAUTIOUS_DECAY,
        wgsl!("../../../shaders/optimizer/adamw_scaled.wgsl"),
    ];
    uniform AdamwScaledParams {
        /// Added to the root of the second moment.
        eps: f32,
        /// [`FACTOR_NONE`], [`FACTOR_LEARNING_RATE`] or [`FACTOR_AGREEING`].
        factor: u32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {
        /// (tensors) factors; any buffer where they are not used.
        Read factors,
    }
}

adam_rule! {
    /// Adam-atan2 (Everett et al., 2024), with decoupled weight decay.
    pub AdamAtan2 = [AGREES, CAUTIOUS_DECAY, wgsl!("../../../shaders/optimizer/adam_atan2.wgsl")];
    uniform AdamAtan2Params {
        /// Factor on the angle.
        a: f32,
        /// Factor on the root of the second moment; greater than 0.
        b: f32,
        /// 1 decays only weights whose sign is that of the update.
        cautious_decay: u32,
    }
    buffers {}
}

adam_rule! {
    /// AdamW for some of the tensors, with moments that lie packed.
    pub AdamwPacked = [wgsl!("../../../shaders/optimizer/adamw_packed.wgsl")];
    uniform AdamwPackedParams {
        /// Added to the root of the second moment.
        eps: f32,
        /// Factor on the learning rate of the step.
        learning_rate_factor: f32,
    }
    buffers {
        /// (chunk_count) first quad of each chunk among the packed ones.
        Read packed,
    }
}
