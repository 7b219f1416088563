//! Other settings of the same run, to see what they would take.

use crate::error::{Error, Result};
use crate::kernel::{MomentStorage, Precision};
use crate::train::builder::settings::Settings;
use crate::train::{Lengths, Model, TrainerBuilder};

/// What of the settings of a run is to be otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variation {
    /// Microbatches of a step.
    pub microbatches: Option<usize>,
    /// Storage of activations.
    pub precision: Option<Precision>,
    /// Storage of moments.
    pub moments: Option<MomentStorage>,
    /// The longest sequences, where batches have several lengths.
    pub longest: Option<usize>,
}

impl Variation {
    /// Changes the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for moments that the optimizer cannot hold so.
    pub(in crate::train) fn apply(&self, settings: &mut Settings) -> Result<()> {
        settings.microbatches = self.microbatches.unwrap_or(settings.microbatches);
        settings.precision = self.precision.unwrap_or(settings.precision);
        if let Some(storage) = self.moments {
            let optimizer = settings.optimizer.in_storage(storage);
            settings.optimizer = optimizer.ok_or_else(|| Error::Setting {
                setting: "moments",
                value: format!("{storage} of {:?}", settings.optimizer),
                range: "those of AdamW, Adam or Lion, without amsgrad and without caution",
            })?;
        }
        if let (Some(longest), Some(lengths)) = (self.longest, &settings.lengths) {
            let shorter = lengths.all().iter().copied().filter(|&length| length < longest);
            settings.lengths = Some(Lengths::new(shorter.chain([longest]))?);
        }
        Ok(())
    }
}

impl<M: Model> TrainerBuilder<M> {
    pub(crate) fn model(&self) -> &M {
        &self.model
    }

    pub(crate) fn microbatches(&self) -> usize {
        self.settings.microbatches
    }

    pub(crate) fn precision_of_values(&self) -> Precision {
        self.settings.precision
    }

    pub(crate) fn moment_storage(&self) -> MomentStorage {
        self.settings.optimizer.moment_storage()
    }

    pub(crate) fn longest(&self) -> Option<usize> {
        self.settings.lengths.as_ref().map(Lengths::longest)
    }

    pub(crate) fn has_parameters(&self) -> bool {
        self.parameters.is_some()
    }

    /// The same run of another model and with other settings.
    pub(crate) fn varied(mut self, model: M, variation: &Variation) -> Result<Self> {
        variation.apply(&mut self.settings)?;
        Ok(Self { model, ..self })
    }
}
