//! A run of one of the commands that train.

use std::path::{Path, PathBuf};

use evenkeel::train::Batch;
use evenkeel::{Error, Gpu, Result};

use crate::lora;
use crate::replay::{Begun, Moved, Row};
use crate::train;

/// A run, and where it is taken up again.
pub enum Run {
    Lora(Box<lora::Replay>),
    Train(Box<train::Replay>),
}

impl Run {
    /// Reads what there is of a run up to a step.
    ///
    /// # Errors
    /// [`Error::File`] for a folder of another program, or without a save; what is wrong with the
    /// settings.
    pub fn open(folder: &Path, step: u64, moved: &Moved) -> Result<Self> {
        if lora::Replay::is_in(folder) {
            return Ok(Self::Lora(Box::new(lora::Replay::open(folder, step, moved)?)));
        }
        if train::Replay::is_in(folder) {
            return Ok(Self::Train(Box::new(train::Replay::open(folder, step, moved)?)));
        }
        let reason = "there are records in this folder, but neither the settings nor a save of a \
                      run of evenkeel lora or evenkeel train, so its steps cannot be taken again; \
                      runs save as often as --save-every says";
        Err(Error::File { path: folder.to_owned(), reason: reason.to_owned() })
    }

    /// The file that it is taken up at; `None` for its beginning.
    pub fn save(&self) -> Option<&PathBuf> {
        match self {
            Self::Lora(run) => run.save(),
            Self::Train(run) => run.save(),
        }
    }

    /// The adapter and driver that took the step, where the run says it.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Lora(run) => run.device(),
            Self::Train(run) => run.device(),
        }
    }

    /// Iterations in a step, where the command counts those.
    pub fn per_step(&self) -> Option<u64> {
        match self {
            Self::Lora(run) => Some(run.per_step()),
            Self::Train(_) => None,
        }
    }

    /// Brings a trainer to where steps are taken again.
    ///
    /// # Errors
    /// What is wrong with model, data and save, or [`Error::OutOfMemory`].
    pub async fn begin(&mut self, gpu: &Gpu, watch_every: u32) -> Result<Begun> {
        match self {
            Self::Lora(run) => run.begin(gpu, watch_every).await,
            Self::Train(run) => run.begin(gpu, watch_every).await,
        }
    }

    /// The batch of a step.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn batch(&self, step: u64) -> Result<Batch> {
        match self {
            Self::Lora(run) => run.batch(step),
            Self::Train(run) => run.batch(step),
        }
    }

    /// The rows of that batch.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn rows(&self, step: u64) -> Result<Vec<Row>> {
        match self {
            Self::Lora(run) => run.rows(step),
            Self::Train(run) => run.rows(step),
        }
    }

    /// A batch to measure the loss of a row on.
    pub fn alone(&self, row: &Row) -> Batch {
        match self {
            Self::Lora(run) => run.alone(row),
            Self::Train(run) => run.alone(row),
        }
    }

    /// Rows of a microbatch.
    pub fn microbatch(&self) -> usize {
        match self {
            Self::Lora(run) => run.microbatch(),
            Self::Train(run) => run.microbatch(),
        }
    }
}
