//! The steps of a run, and what follows them: telemetry, validation, saves, models.

mod steps;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel::data::{CachedWindows, LoaderStatistics, Prefetch};
use evenkeel::hugging_face::Export;
use evenkeel::nn::LanguageModel;
use evenkeel::plan::Parameters;
use evenkeel::run::{
    Monitor, MonitorSummary, OutputOptions, Outputs, ProfiledSteps, Saved, Signals, say, warn,
};
use evenkeel::train::ranks::Round;
use evenkeel::train::{Batch, Checkpoint, Trainer};
use evenkeel::{Error, Precision, Result};

use super::describe;
use super::keep;
use super::place::{About, Best};
use super::settings::Settings;
use super::tokens::Tokens;
use crate::ranks::learner::Learner;
use crate::ranks::{Ranks, Share, rounds};
use crate::regain::Regain;

/// Batches of the validation part that a validation loss is the mean of; always the same ones.
const VALIDATION_BATCHES: u64 = 4;
/// The model at the end, in the folder of the run.
pub const MODEL: &str = "model";
/// The model at the lowest validation loss.
pub const BEST: &str = "best";
/// The save at that.
pub const BEST_SAVE: &str = "best.safetensors";
/// Batches that are made ahead of the device.
pub const AHEAD: usize = 4;

/// What a run reads and never changes.
pub struct Fixed<'a> {
    /// Who else takes part, and what this rank has of a step.
    pub together: (&'a Ranks, Share),
    pub settings: &'a Settings,
    pub tokens: &'a Tokens,
    pub training: CachedWindows,
    pub validation: CachedWindows,
    pub out: &'a Path,
    pub outputs: &'a Outputs,
    pub library: &'a OutputOptions,
    pub signals: &'a Signals,
}

impl Fixed<'_> {
    /// Has the other ranks make a checkpoint with this one, where each has a part of it.
    fn ask_for_checkpoint(&self) -> Result<()> {
        match self.settings.shard_optimizer {
            true => self.together.0.ask_for_checkpoint(),
            false => Ok(()),
        }
    }

    async fn checkpoint(&self, trainer: &Trainer<LanguageModel>) -> Result<Checkpoint> {
        self.ask_for_checkpoint()?;
        trainer.checkpoint().await
    }
}

/// A run that has begun.
pub struct Session<'a> {
    fixed: Fixed<'a>,
    monitor: Monitor,
    profiled: Option<ProfiledSteps>,
    about: About,
    since: Instant,
    loader: Option<Prefetch<Batch>>,
    /// At the last report.
    loaded: LoaderStatistics,
    /// Tokens that were learned, and the seconds that it took.
    learned: (u64, f64),
    /// Steps at the last save.
    saved_at: u64,
    /// Why the last try to save, or to write a model, failed.
    unsaved: Option<Error>,
    unwritten: Option<Error>,
}

impl<'a> Session<'a> {
    /// Brings the trainer to where the run was saved, or makes the first save, and opens the files.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a trainer of another model, [`Error::File`].
    pub async fn begin(
        fixed: Fixed<'a>,
        trainer: &mut Trainer<LanguageModel>,
        saved: Option<Saved<About>>,
        mut about: About,
        regain: &mut Regain,
    ) -> Result<Self> {
        match saved {
            Some(saved) => {
                trainer.restore(&saved.checkpoint).await?;
                about.best = saved.about.best;
                keep::only_until(fixed.out, Some(trainer.steps()));
            }
            None => {
                fixed.tokens.lexicon.write(fixed.out)?;
                let Outputs { weights, previous, .. } = fixed.outputs;
                Saved::write(weights, previous, &fixed.checkpoint(trainer).await?, &about)?;
                keep::only_until(fixed.out, None);
                let kept = (fixed.settings.keep, &*fixed.settings.milestones);
                keep::saved(fixed.out, &fixed.outputs.weights, 0, kept.0, kept.1);
            }
        }
        let (start, steps) = (trainer.steps(), fixed.settings.steps);
        let report = describe::report(fixed.settings, trainer);
        let extent = (start, steps, fixed.settings.warmup);
        let mut monitor = Monitor::new(fixed.outputs, fixed.library, report, extent)?;
        regain.goes_on_from(start).into_iter().for_each(|event| monitor.event(event));
        Ok(Self {
            profiled: ProfiledSteps::of(fixed.library, start, steps as u64),
            fixed,
            monitor,
            about,
            since: Instant::now(),
            loader: None,
            loaded: LoaderStatistics::default(),
            learned: (0, 0.0),
            saved_at: start,
            unsaved: None,
            unwritten: None,
        })
    }

    /// Leaves a run whose device is lost, and that goes on from its last save.
    pub fn leave(self) {
        self.monitor.leave();
    }

    /// What is due: of ranks that take steps by themselves, all but reports where they have met.
    async fn after_step(&mut self, learner: &mut Learner, round: Option<Round>) -> Result<()> {
        let (done, settings) = (learner.trainer().steps(), self.fixed.settings);
        let before = match &round {
            Some(round) => done - round.steps,
            None if learner.is_apart() => done,
            None => done - 1,
        };
        if let Some(round) = &round {
            self.tell_round(done, round);
        }
        let validation = settings.validates(before, done);
        let save = settings.saves(before, done);
        if done.is_multiple_of(settings.report_every as u64) || validation || save {
            // What is saved is in the records as well.
            self.report(learner.trainer_mut(), validation).await?;
            if save {
                self.save(learner).await?;
            }
            self.since = Instant::now();
        }
        Ok(())
    }

    fn tell_round(&mut self, done: u64, round: &Round) {
        // Steps count from 0 in records.
        self.monitor.event_at(done - 1, rounds::told(round));
        for left_out in &round.left_out {
            warn(format!("round {}: {left_out}", round.number));
        }
    }

    async fn report(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        validation: bool,
    ) -> Result<()> {
        let telemetry = trainer.telemetry().await?;
        let tensors = trainer.tensor_telemetry().await?;
        let elapsed = self.since.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
        let tokens = telemetry.len() * self.fixed.settings.tokens_per_step();
        self.learned.0 += tokens as u64;
        self.learned.1 += elapsed;
        if let Some(loader) = &self.loader {
            let now = loader.statistics();
            self.monitor.waits_for_data(now.since(&self.loaded).waiting_share());
            self.loaded = now;
        }
        let loss = if validation { Some(self.validate(trainer).await) } else { None };
        let loss = loss.transpose();
        let known = loss.as_ref().ok().copied().flatten();
        self.monitor.report(&telemetry, &tensors, tokens as f64 / elapsed, known);
        let Some(loss) = loss? else { return Ok(()) };
        let is_best = self.about.best.is_none_or(|best| loss < best.loss);
        if is_best && loss.is_finite() {
            self.about.best = Some(Best { step: trainer.steps(), loss });
            let written = self.write_best(trainer).await;
            self.note(written);
        }
        Ok(())
    }

    async fn validate(&self, trainer: &mut Trainer<LanguageModel>) -> Result<f64> {
        let (seed, rows) = (trainer.seed(), self.fixed.settings.batch);
        let (_, share) = self.fixed.together;
        let mut batches = Vec::new();
        for index in 0..VALIDATION_BATCHES {
            let batch = self.fixed.validation.batch(seed, index, rows)?;
            batches.extend(share.pieces(&batch, rows)?);
        }
        let loss = match trainer.ema() {
            Some(_) => trainer.evaluate_averaged_all(&batches).await?,
            None => trainer.evaluate_all(&batches).await?,
        };
        Ok(loss.into())
    }

    /// The state of the run.
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`].
    pub async fn checkpoint(&self, trainer: &Trainer<LanguageModel>) -> Result<Checkpoint> {
        self.fixed.checkpoint(trainer).await
    }

    async fn write_best(&self, trainer: &mut Trainer<LanguageModel>) -> Result<()> {
        let path = self.fixed.out.join(BEST_SAVE);
        Saved::write_copy(&path, &self.checkpoint(trainer).await?, &self.about)?;
        self.export(trainer, BEST).await.map(drop)
    }

    /// Writes the model with its tokenizer as a Hugging Face folder.
    async fn export(&self, trainer: &mut Trainer<LanguageModel>, name: &str) -> Result<PathBuf> {
        let folder = self.fixed.out.join(name);
        let export = Export::new(self.fixed.settings.config.clone(), Precision::F32);
        export.save(learned(trainer).await?, &folder).await?;
        self.fixed.tokens.lexicon.write(&folder)?;
        Ok(folder)
    }

    /// The run goes on without a file that cannot be written.
    fn note(&mut self, written: Result<()>) {
        if let Err(error) = written {
            if self.unwritten.is_none() {
                warn(format!("{error}; the run goes on"));
            }
            self.unwritten = Some(error);
        } else {
            self.unwritten = None;
        }
    }

    async fn save(&mut self, learner: &Learner) -> Result<()> {
        self.fixed.ask_for_checkpoint()?;
        let state = learner.state(None).await?;
        self.monitor.sync();
        let (outputs, checkpoint) = (self.fixed.outputs, state.checkpoint());
        let steps = checkpoint.steps();
        let own = learner.write_own(&state);
        let Outputs { weights, previous, .. } = outputs;
        match own.and_then(|()| Saved::write(weights, previous, checkpoint, &self.about)) {
            Ok(()) => {
                self.saved_at = steps;
                self.unsaved = None;
                let (out, settings) = (self.fixed.out, self.fixed.settings);
                keep::saved(out, &outputs.weights, steps, settings.keep, &settings.milestones);
            }
            Err(error) => {
                let steps = self.saved_at;
                warn(format!("{error}; the run goes on, its last save is that of step {steps}"));
                self.unsaved = Some(error);
            }
        }
        Ok(())
    }

    /// Ends the run as `trained` says it went: also after an error, what was measured and learned
    /// until then is kept. Gives the folder of the model, where there is one.
    ///
    /// # Errors
    /// That of `trained`, else that of the save or of a file.
    pub async fn end(mut self, learner: &mut Learner, trained: Result<()>) -> Result<Ended> {
        // After an error ranks may be at other steps, unless they take each together.
        let are_together = trained.is_ok() || !learner.is_apart();
        let mut result = trained.and(self.report(learner.trainer_mut(), false).await);
        if self.saved_at < learner.trainer().steps() && are_together {
            result = result.and(self.save(learner).await);
        }
        let trainer = learner.trainer_mut();
        let is_over = trainer.steps() >= self.fixed.settings.steps as u64;
        let (tokens, seconds) = self.learned;
        let mut ended = Ended {
            model: None,
            best: self.about.best,
            steps: trainer.steps(),
            summary: self.monitor.summary(),
            tokens_per_second: (seconds > 0.0).then_some(tokens as f64 / seconds),
            loader: self.loader.as_ref().map(Prefetch::statistics),
        };
        if is_over && result.is_ok() {
            match self.export(trainer, MODEL).await {
                Ok(folder) => ended.model = Some(folder),
                Err(error) => result = Err(error),
            }
        }
        let mut written = Ok(());
        if let Some(profiled) = &mut self.profiled {
            // A run may have ended in the middle of them.
            profiled.tell().into_iter().for_each(|text| self.monitor.print(text));
            written = profiled.write();
        }
        let written = self.monitor.finish().and(written);
        let unsaved = [self.unsaved, self.unwritten].into_iter().flatten().next();
        let whole = unsaved.map_or(Ok(()), Err).and(written);
        result = result.and(whole.map_err(Error::into_output));
        let steps = self.fixed.settings.steps;
        if self.saved_at < steps as u64 {
            let out = self.fixed.out.display();
            say!("saved    at step {} of {steps}; --resume {out} goes on", self.saved_at);
        }
        result.map(|()| ended)
    }
}

/// What a run has learned: the averages of the weights where they are kept.
///
/// # Errors
/// As [`Trainer::averaged`].
pub async fn learned(trainer: &mut Trainer<LanguageModel>) -> Result<&Parameters> {
    match trainer.ema() {
        Some(_) => trainer.averaged().await,
        None => Ok(trainer.parameters()),
    }
}

/// What a run has left.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The folder of the model.
    pub model: Option<PathBuf>,
    /// The lowest validation loss.
    pub best: Option<Best>,
    pub steps: u64,
    pub summary: MonitorSummary,
    /// Of this part of the run, if it took a step.
    pub tokens_per_second: Option<f64>,
    pub loader: Option<LoaderStatistics>,
}
