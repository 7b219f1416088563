//! Steps of a run that are taken again, with the batches that they had.

use std::path::{Path, PathBuf};

use evenkeel::train::{Batch, IGNORE};
use evenkeel::{Error, Gpu, Result};

use super::adapter;
use super::data::Set;
use super::resume::{About, check_data, state_files};
use super::settings::{Settings, over};
use super::setup::Setup;
use super::sources;
use crate::replay::{Around, Begun, Moved, Row, of_rounds};

/// The settings as they were resolved last, in the folder of a run.
pub const SETTINGS: &str = "settings.yaml";

/// A run, and where it is taken up again.
pub struct Replay {
    around: Around<About>,
    settings: Settings,
    setup: Option<Setup>,
}

impl Replay {
    /// Whether a folder is that of such a run.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(SETTINGS).is_file() || state_files(folder).iter().any(|path| path.is_file())
    }

    /// Reads what there is of a run up to a step.
    ///
    /// # Errors
    /// [`Error::File`] where there is no save, and what is wrong with the settings.
    pub fn open(folder: &Path, step: u64, moved: &Moved) -> Result<Self> {
        let [last, previous] = state_files(folder);
        let around = Around::<About>::find(folder, last, vec![previous], step)?;
        let written = folder.join(SETTINGS);
        let mut settings = match &around.behind {
            Some(about) => about.settings.clone(),
            // What the run was changed to since its last save.
            None if written.is_file() => {
                let fields = over([sources::read(&written)?]);
                Settings::from_fields(&fields, &written.display().to_string())?
            }
            None => around.last.settings.clone(),
        };
        if settings.diloco_steps.is_some() {
            return Err(of_rounds());
        }
        if let Some(data) = moved.data.first() {
            settings.data = Some(data.clone());
        }
        settings.model = moved.model.clone().or(settings.model);
        Ok(Self { around, settings, setup: None })
    }

    /// The file that it is taken up at; `None` for its beginning.
    pub fn save(&self) -> Option<&PathBuf> {
        self.around.before.as_ref().map(|save| &save.path)
    }

    /// The adapter and driver that took the step.
    pub fn device(&self) -> Option<&str> {
        Some(&self.around.behind.as_ref().unwrap_or(&self.around.last).device)
    }

    /// Iterations in a step.
    pub fn per_step(&self) -> u64 {
        self.settings.grad_accumulation_steps as u64
    }

    /// Reads model and data, and brings the trainer to where steps are taken again. All tensors are
    /// measured every so many steps; 0 for never.
    ///
    /// # Errors
    /// What is wrong with model, data and save, or [`Error::OutOfMemory`].
    pub async fn begin(&mut self, gpu: &Gpu, watch_every: u32) -> Result<Begun> {
        self.settings.validate()?;
        let setup = Setup::new(self.settings.clone(), gpu, true)?;
        check_data(&setup.settings, &self.around.last, &setup.data)?;
        let mut trainer = setup.trainer_watching(gpu, watch_every).await?;
        let frozen = trainer.fingerprint_of_frozen().await?;
        let save = self.around.before.as_ref().map(|save| save.read()).transpose()?;
        if let (None, Some(lora)) = (&save, &setup.lora)
            && let Some(adapter) = adapter::to_begin_with(&setup.settings, &setup, lora)?
        {
            trainer.load_weights(&mut adapter.reader()).await?;
        }
        self.setup = Some(setup);
        Begun::at(trainer, Some(frozen), save).await
    }

    fn setup(&self) -> &Setup {
        self.setup.as_ref().expect("the replay has begun")
    }

    fn training(&self) -> Result<&Set> {
        self.setup().data.training.as_ref().ok_or_else(|| Error::Data {
            what: "the run".to_owned(),
            reason: "it has not learned from any records".to_owned(),
        })
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// [`Error::Data`] for a run that trains nothing.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        Ok(self.training()?.batch(self.settings.seed, step))
    }

    /// The records of that batch.
    ///
    /// # Errors
    /// As [`batch`](Self::batch), and those of the tokenizer.
    pub fn rows(&self, step: u64) -> Result<Vec<Row>> {
        let (training, tokenizer) = (self.training()?, &self.setup().source.tokenizer);
        let records = training.records(self.settings.seed, step).into_iter();
        let row = |(line, sequence): (usize, &evenkeel::data::Sequence)| {
            let last = sequence.targets.last().filter(|&&target| target != IGNORE);
            let ids: Vec<_> = sequence.tokens.iter().chain(last).copied().collect();
            Ok(Row {
                file: training.name().to_owned(),
                line,
                text: tokenizer.decode(&ids, false)?,
                tokens: sequence.tokens.clone(),
                targets: sequence.targets.clone(),
            })
        };
        records.map(row).collect()
    }

    /// A batch to measure the loss of a row on.
    pub fn alone(&self, row: &Row) -> Batch {
        let lengths = &self.setup().data.lengths;
        let length = lengths.holding(row.tokens.len()).unwrap_or(lengths.longest());
        row.alone(self.settings.batch_size, length).of_length(length)
    }

    /// Rows of a microbatch.
    pub fn microbatch(&self) -> usize {
        self.settings.batch_size
    }
}
