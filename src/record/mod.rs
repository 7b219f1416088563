//! Recording: kernels with their buffers and parameters become dispatches.
//!
//! A [`Recorder`] makes the [`Dispatch`](crate::gpu::Dispatch)es of operations and updates, a
//! [`Slot`] says where a value lies, [`StepBuffers`] are the blocks that steer a step. What is to be
//! recorded is decided above: operations of a [`graph`](crate::graph) record themselves, a
//! [`plan`](crate::plan) says in which slots.

mod extent;
mod recorder;
mod slot;

pub use extent::{Extent, Machine};
pub use recorder::Recorder;
pub use slot::Slot;

use crate::gpu::Gpu;
use crate::shape::Shape;
use crate::step::{StepInput, StepState};

/// The two blocks that steer a step.
#[derive(Debug)]
pub struct StepBuffers {
    /// One [`StepInput`], written by the host.
    pub input: wgpu::Buffer,
    /// One [`StepState`], written by kernels.
    pub state: wgpu::Buffer,
}

impl StepBuffers {
    /// Fresh blocks: step 0, loss scale 1.
    pub fn new(gpu: &Gpu) -> Self {
        Self::from_state(gpu, StepState::new(1.0, 1))
    }

    /// Blocks that start from `state`.
    pub fn from_state(gpu: &Gpu, state: StepState) -> Self {
        let input = StepInput { learning_rate_factor: 1.0, ..StepInput::default() };
        Self {
            input: gpu.upload("step input", &[input]),
            state: gpu.upload("step state", &[state]),
        }
    }
}

/// The u32 a shape's size becomes in a uniform block.
///
/// # Panics
/// Above `u32::MAX`, which no binding reaches.
pub fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("sizes in a kernel fit in 32 bits")
}

/// Quads of a shape, as a uniform field.
pub fn quads(shape: &Shape) -> u32 {
    to_u32(shape.quads())
}
