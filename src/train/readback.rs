//! What a trainer reads back of the device: gradients, observations, states, all that is committed.

use super::{Model, Trainer};
use crate::error::Result;
use crate::plan::parameters;
use crate::step::{StepState, TensorState};

impl<M: Model> Trainer<M> {
    /// The gradient of a parameter as the last step left it: scaled by the loss scale, not yet
    /// clipped; dense. Empty for a frozen parameter and for a state, which have none. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::UnknownName`](crate::Error::UnknownName),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.parameters.find(name)?;
        let index = self.parameters.trained().iter().position(|spec| spec.name == name);
        let Some(index) = index else { return Ok(Vec::new()) };
        let element = crate::graph::Element::F32;
        let slot = self.parameters.slot_in(&self.sinks.gradients, index, element);
        parameters::read_slot(&self.gpu, &slot).await
    }

    /// The gradients of all trained tensors as the last step left them, in one flat buffer for each
    /// [trained segment](crate::plan::Parameters::trained_segments): f32 in quads, each tensor where its
    /// weights lie. Of a step on several ranks they are the sums over all.
    pub fn gradient_buffers(&self) -> &[wgpu::Buffer] {
        &self.sinks.gradients
    }

    /// What the model observed in the last step, over its microbatches: (name, elements), as by
    /// [`Graph::observe`]: largest attention logits and entropies, say. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    ///
    /// [`Graph::observe`]: crate::graph::Graph::observe
    pub async fn observations(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut observed = Vec::with_capacity(self.observations.len());
        for (name, slot) in self.observations.iter().zip(&self.plans.last().outputs[1..]) {
            observed.push((name.clone(), parameters::read_slot(&self.gpu, slot).await?));
        }
        Ok(observed)
    }

    /// The device's own account of the run. Waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn state(&self) -> Result<StepState> {
        Ok(self.gpu.read(&self.step.state, 0, 1).await?[0])
    }

    /// Each trained tensor as the optimizer sees it, in the order of [`Parameters::trained`]. Waits
    /// for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    ///
    /// [`Parameters::trained`]: crate::plan::Parameters::trained
    pub async fn tensor_states(&self) -> Result<Vec<TensorState>> {
        self.gpu.read(&self.tensors, 0, self.parameters.trained().len()).await
    }

    /// Every byte that a step commits: weights (frozen ones, which it does not change, included),
    /// moments (of a [sharded](super::TrainerBuilder::shard_optimizer_state) optimizer those of this
    /// rank), averages, states and the tensors' clocks, in this order. What the device counts beside them is in [`state`](Self::state). Waits for the
    /// device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn committed_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let weights = self.parameters.weights().iter().chain(self.parameters.blocks());
        let moments = self.moments.iter().flatten();
        let states = [self.parameters.committed()];
        for buffer in weights.chain(moments).chain(self.averages()).chain(states) {
            bytes.extend(self.gpu.read::<u8>(buffer, 0, buffer.size() as usize).await?);
        }
        for tensor in self.tensor_states().await? {
            bytes.extend(bytemuck::bytes_of(&[tensor.bias_correction1, tensor.bias_correction2]));
            bytes.extend(bytemuck::bytes_of(&[tensor.steps, tensor.reset]));
        }
        Ok(bytes)
    }
}
