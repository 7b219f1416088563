//! What is put right of a run that goes on from weights of others.

use std::collections::BTreeSet;

use super::check::continued;
use super::moments::Moment;
use crate::error::Result;
use crate::step::{TensorSettings, TensorState};
use crate::train::{Model, Trainer};

impl<M: Model> Trainer<M> {
    /// Empties what the optimizer keeps of each tensor of which a part is not finite; their names.
    pub(in crate::train) async fn empty_spoiled_moments(&self) -> Result<Vec<String>> {
        let storage = self.settings.optimizer().moment_storage();
        let moments = self.moments_of_tensors();
        let mut spoiled = BTreeSet::new();
        let buffer = |[segment, index]: [usize; 2]| &self.moments[segment][index];
        for Moment { tensor, buffer: place, codes, scales, is_square, .. } in &moments {
            let buffer = buffer(*place);
            let mut bytes = [Vec::new(), Vec::new()];
            for (bytes, place) in bytes.iter_mut().zip([scales, codes]) {
                if !place.is_empty() {
                    *bytes = self.gpu.read::<u8>(buffer, place.start as u64, place.len()).await?;
                }
            }
            let values = storage.decode(&bytes[0], &bytes[1], *is_square);
            if values.iter().any(|x| !x.is_finite()) {
                spoiled.insert(*tensor);
            }
        }
        let mut tensors = self.tensor_states().await?;
        for moment in moments.iter().filter(|moment| spoiled.contains(&moment.tensor)) {
            let zeros = vec![0.0; 4 * moment.shape.quads()];
            let places = [&moment.scales, &moment.codes];
            for (place, bytes) in places.into_iter().zip(storage.encode(&zeros, moment.is_square)) {
                if !place.is_empty() {
                    self.gpu.write(buffer(moment.buffer), place.start as u64, &bytes);
                }
            }
            let TensorState { weight_decay, learning_rate, .. } = tensors[moment.tensor];
            tensors[moment.tensor] = TensorSettings { weight_decay, learning_rate }.into();
        }
        if !spoiled.is_empty() {
            self.gpu.write(&self.tensors, 0, bytemuck::cast_slice(&tensors));
        }
        let name = |tensor: usize| self.parameters.trained()[tensor].name.clone();
        Ok(spoiled.into_iter().map(name).collect())
    }

    /// Lets a device that has given up take steps again; the loss scale begins anew where it only tells
    /// of weights that are gone.
    pub(in crate::train) async fn go_on_after_skips(&mut self, forgets_scale: bool) -> Result<()> {
        self.gave_up = None;
        let state = self.state().await?;
        if state.gave_up != 0 || forgets_scale {
            let scale = self.settings.chosen_loss_scale(&self.parameters);
            let state = continued(&state, !forgets_scale, &scale);
            self.gpu.write(&self.step.state, 0, bytemuck::bytes_of(&state));
        }
        Ok(())
    }
}
