//! What profiles are for a run: some of its first steps, two tables, and a file.

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{OutputOptions, warn};
use crate::error::{Error, Result};
use crate::file;
use crate::nn::LanguageModel;
use crate::train::{Batch, Profile, Trainer};

/// Steps before those that are profiled, in which drivers compile and caches fill.
const WARM_STEPS: u64 = 3;
/// Steps of which the fastest run of each dispatch counts.
const MEASURED_STEPS: u64 = 5;

/// The steps that a run profiles.
#[derive(Debug)]
pub struct ProfiledSteps {
    /// By how many steps were taken before.
    steps: Range<u64>,
    /// Where the trace goes.
    path: Option<PathBuf>,
    /// Of those taken so far, until it is told.
    profile: Option<Profile>,
    /// A trace that could not be written.
    unwritten: Option<String>,
}

impl ProfiledSteps {
    /// Those of a run that begins at step `start` and has `total`, where options ask for them.
    pub fn of(options: &OutputOptions, start: u64, total: u64) -> Option<Self> {
        let path = options.profile.clone()?;
        let first = (start + WARM_STEPS).min(total.saturating_sub(1)).max(start);
        let steps = first..(first + MEASURED_STEPS).min(total);
        Some(Self { steps, path, profile: None, unwritten: None })
    }

    /// Whether the next step is one of them.
    pub fn are_next(&self, trainer: &Trainer<LanguageModel>) -> bool {
        self.steps.contains(&trainer.steps())
    }

    /// Takes a step. Gives the tables after the last one, and the time that all of it took beside
    /// that of the step.
    ///
    /// # Errors
    /// As [`Trainer::profile`].
    pub async fn take(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        batch: &Batch,
    ) -> Result<(Option<String>, Duration)> {
        let begin = Instant::now();
        let taken = trainer.profile(batch).await?;
        let step = Duration::from_secs_f64(taken.elapsed_seconds());
        match &mut self.profile {
            Some(profile) => drop(profile.take_fastest(&taken)),
            None => self.profile = Some(taken),
        }
        let is_last = trainer.steps() == self.steps.end;
        let tables = if is_last { self.tell() } else { None };
        Ok((tables, begin.elapsed().saturating_sub(step)))
    }

    /// The tables, once; writes the trace.
    pub fn tell(&mut self) -> Option<String> {
        let profile = self.profile.take()?;
        if self.path.is_some() {
            self.unwritten = Some(profile.trace());
            if let Err(error) = self.write() {
                warn(format!("{error}; the run goes on"));
            }
        }
        Some(profile.to_string())
    }

    /// Writes the trace, unless that has been done.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&mut self) -> Result<(), Error> {
        if let (Some(path), Some(trace)) = (&self.path, &self.unwritten) {
            file::replace(path, trace.as_bytes())?;
        }
        self.unwritten = None;
        Ok(())
    }
}
