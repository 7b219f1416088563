//! The tables of a step: chunks of the flat buffers, and the tensors they belong to.

use bytemuck::{Pod, Zeroable};

use super::device_struct::device_struct;

device_struct! {
    /// One chunk of a flat parameter buffer: the share of one workgroup.
    Chunk {
        /// First quad in the flat buffers of weights and gradients.
        offset: u32,
        /// Quads.
        quads: u32,
        /// Row of the tensor table.
        tensor: u32,
        /// Quads of padding are counted in `quads`; this many elements are real.
        elements: u32,
        /// First quad in the buffers of what an optimizer keeps of each weight: that of `offset`, but
        /// where a [rank](crate::train::ranks) keeps its own range alone.
        kept: u32,
    }
}

device_struct! {
    /// One tensor as optimizers see it: its settings, and what policies and the verdict say of it.
    TensorState {
        /// Factor on the optimizer's weight decay; 0 switches it off.
        weight_decay: f32,
        /// Factor on the learning rate.
        learning_rate: f32,
        /// Factor on this tensor's gradient in this step, beside the global one; at most 1.
        clip_coefficient: f32,
        /// 1 - beta1^steps, by recurrence.
        bias_correction1: f32,
        /// 1 - beta2^steps, by recurrence.
        bias_correction2: f32,
        /// Applied steps since the moments of this tensor were last empty, this one included. At 1
        /// optimizers take what they keep per element for zero, whatever is there.
        steps: u32,
        /// 1 where a policy wants the moments emptied; the next applied step does it.
        reset: u32,
    }
}

/// Settings of one tensor that optimizers obey.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorSettings {
    /// Factor on the optimizer's weight decay; 0 switches it off.
    pub weight_decay: f32,
    /// Factor on the learning rate.
    pub learning_rate: f32,
}

impl From<TensorSettings> for TensorState {
    /// Before the first step.
    fn from(settings: TensorSettings) -> Self {
        Self {
            weight_decay: settings.weight_decay,
            learning_rate: settings.learning_rate,
            clip_coefficient: 1.0,
            ..Self::default()
        }
    }
}
