//! The steps of a run, and what follows them: telemetry, validation, saves, models.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel::data::{CachedWindows, LoaderStatistics, Prefetch};
use evenkeel::hugging_face::Export;
use evenkeel::nn::LanguageModel;
use evenkeel::plan::Parameters;
use evenkeel::run::{
    Monitor, MonitorSummary, OutputOptions, Outputs, ProfiledSteps, Saved, Signal, Signals, say,
    warn,
};
use evenkeel::train::{Batch, Checkpoint, Trainer};
use evenkeel::{Error, Precision, Result};

use super::batch_of::batch_of;
use super::describe;
use super::keep;
use super::place::{About, Best};
use super::settings::Settings;
use super::tokens::Tokens;
use crate::ranks::{Ranks, Share};
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
    /// The state of the run, of which other ranks may have a part.
    async fn checkpoint(&self, trainer: &Trainer<LanguageModel>) -> Result<Checkpoint> {
        if self.settings.shard_optimizer {
            self.together.0.ask_for_checkpoint()?;
        }
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

    /// Submits step after step. The device is only waited for where telemetry is read and where the
    /// run is saved. Gives the signal that ended it before its last step, if one did.
    ///
    /// # Errors
    /// As [`Trainer::step`]. What cannot be written does not end the run.
    pub async fn train(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        regain: &mut Regain,
    ) -> Result<Option<Signal>> {
        let (ranks, _) = self.fixed.together;
        let mut looked = Ok(());
        loop {
            let next = looked.and_then(|()| self.next(trainer, regain));
            let Some(batch) = ranks.take_together(next)? else { break };
            match &mut self.profiled {
                Some(profiled) if profiled.are_next(trainer) => {
                    let (tables, beside) = profiled.take(trainer, &batch).await?;
                    tables.into_iter().for_each(|text| self.monitor.print(text));
                    self.since += beside;
                }
                _ => ranks.step(trainer, &batch).await?,
            }
            looked = self.after_step(trainer).await;
        }
        match trainer.steps() < self.fixed.settings.steps as u64 {
            true => ranks.heard(self.fixed.signals.received()),
            false => Ok(None),
        }
    }

    /// The batch of the next step, unless the run is to end here.
    fn next(
        &mut self,
        trainer: &Trainer<LanguageModel>,
        regain: &mut Regain,
    ) -> Result<Option<Batch>> {
        if !self.goes_on(trainer.steps()) {
            return Ok(None);
        }
        let batch = self.batch(trainer)?;
        regain.before_step(trainer.steps());
        if self.fixed.together.0.are_several() {
            // Between steps the others can be told.
            trainer.gpu().check()?;
        }
        Ok(Some(batch))
    }

    /// Leaves a run whose device is lost, and that goes on from its last save.
    pub fn leave(self) {
        self.monitor.leave();
    }

    /// The batch of the next step, which a thread has made ahead: which one it is follows from seed
    /// and step.
    fn batch(&mut self, trainer: &Trainer<LanguageModel>) -> Result<Batch> {
        let position = trainer.steps();
        if self.loader.as_ref().is_none_or(|loader| loader.position() != position) {
            let (ranks, share) = self.fixed.together;
            let own = share.sequences(ranks.rank());
            let all = self.fixed.settings.batch * self.fixed.settings.accumulation;
            let (training, seed) = (self.fixed.training.clone(), trainer.seed());
            let source = move |step| batch_of(&training, seed, step, (&own, all));
            self.loader = Some(Prefetch::new(source, position, AHEAD)?);
            self.loaded = LoaderStatistics::default();
        }
        self.loader.as_mut().and_then(Iterator::next).expect("windows have no end")
    }

    fn goes_on(&mut self, done: u64) -> bool {
        let stop = self.fixed.signals.received().is_some();
        done < self.fixed.settings.steps as u64 && !self.monitor.is_stopped() && !stop
    }

    async fn after_step(&mut self, trainer: &mut Trainer<LanguageModel>) -> Result<()> {
        let (done, settings) = (trainer.steps(), self.fixed.settings);
        let due = |every: usize| every != 0 && done.is_multiple_of(every as u64);
        let validation = due(settings.evaluate_every) || done == settings.steps as u64;
        let save = due(settings.save_every) || settings.milestones.contains(&done);
        if due(settings.report_every) || validation || save {
            // What is saved is in the records as well.
            self.report(trainer, validation).await?;
            if save {
                self.save(&self.checkpoint(trainer).await?);
            }
            self.since = Instant::now();
        }
        Ok(())
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

    fn save(&mut self, checkpoint: &Checkpoint) {
        self.monitor.sync();
        let (outputs, steps) = (self.fixed.outputs, checkpoint.steps());
        match Saved::write(&outputs.weights, &outputs.previous, checkpoint, &self.about) {
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
    }

    /// Ends the run as `trained` says it went: also after an error, what was measured and learned
    /// until then is kept. Gives the folder of the model, where there is one.
    ///
    /// # Errors
    /// That of `trained`, else that of the save or of a file.
    pub async fn end(
        mut self,
        trainer: &mut Trainer<LanguageModel>,
        trained: Result<()>,
    ) -> Result<Ended> {
        let mut result = trained.and(self.report(trainer, false).await);
        if self.saved_at < trainer.steps() {
            match self.checkpoint(trainer).await {
                Ok(checkpoint) => self.save(&checkpoint),
                Err(error) => result = result.and(Err(error)),
            }
        }
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
