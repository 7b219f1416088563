//! A run: its steps, and what is measured, said and saved between them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use evenkeel::data::Prefetch;
use evenkeel::nn::LanguageModel;
use evenkeel::plan::Parameters;
use evenkeel::run::{Ending, Saved, Signals, warn};
use evenkeel::train::{Batch, Checkpoint, FrozenFingerprint, Trainer};
use evenkeel::watch::scalar;
use evenkeel::{Error, Result, file};
use serde_json::Value;

use super::adapter::{self, Writer};
use super::data::Set;
use super::progress::Progress;
use super::reactions;
use super::records::{self, Records};
use super::result;
use super::resume::{About, Best, Start, state_files};
use super::setup::{self, Setup};
use crate::regain::Regain;

/// Batches that are made while the device works.
pub const AHEAD: usize = 4;
/// Steps after which telemetry is read at the latest: the ring holds four times as many.
const UNREAD: u64 = 256;

pub struct Session<'a> {
    setup: &'a Setup,
    signals: &'a Signals,
    regain: &'a mut Regain,
    folder: PathBuf,
    trainer: Trainer<LanguageModel>,
    frozen: FrozenFingerprint,
    writer: Writer,
    records: Records,
    progress: Progress,
    about: About,
    /// Targets that counted in steps that were not read yet, and how many those are.
    unread: (u64, u64),
    /// What is to be recorded with the next step.
    events: Vec<String>,
    saved_at: Option<u64>,
    /// Why the last try to save failed.
    unsaved: Option<Error>,
    losses: Losses,
}

/// The last ones that were measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    /// Of the last step that was applied.
    pub last: Option<f64>,
    pub validation: Option<f64>,
    pub test: Option<f64>,
}

impl<'a> Session<'a> {
    /// Brings the model to the device, and to where the run was saved, or makes the first save.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Checkpoint`] for a save of another model, [`Error::File`].
    pub async fn begin(
        setup: &'a Setup,
        regain: &'a mut Regain,
        signals: &'a Signals,
        start: &Start,
    ) -> Result<Self> {
        let settings = &setup.settings;
        let gpu = regain.gpu().clone();
        let mut trainer = setup.trainer(&gpu).await?;
        let frozen = trainer.fingerprint_of_frozen().await?;
        let device = format!("{} ({})", gpu.info.name, gpu.info.driver_info);
        let mut about = About {
            settings: settings.clone(),
            data: setup.data.fingerprint(),
            device: device.clone(),
            best: None,
            trained_tokens: 0,
        };
        let writer = Writer::new(setup)?;
        let mut saved_at = None;
        if let Some(Saved { checkpoint, about: before }) = &start.saved {
            trainer.restore_trained(checkpoint, &frozen).await?;
            if before.device != device {
                warn(format!(
                    "the run was on {}; on this adapter its bits are others from here on",
                    before.device
                ));
            }
            about.best = before.best;
            about.trained_tokens = before.trained_tokens;
            // Changed settings are saved as well, even where no step is left.
            saved_at = (before.settings == *settings).then(|| trainer.steps());
        } else if let Some(lora) = &setup.lora
            && let Some(adapter) = adapter::to_begin_with(settings, setup, lora)?
        {
            trainer.load_weights(&mut adapter.reader()).await?;
        }
        let per_step = settings.grad_accumulation_steps as u64;
        let claimed = start.folder.as_ref().map(|folder| folder.path().to_owned());
        let folder = claimed.unwrap_or_else(|| settings.adapter_path.clone());
        let records = Records::open(setup, &folder, trainer.steps())?;
        let mut session = Self {
            setup,
            signals,
            events: regain.goes_on_from(trainer.steps()),
            regain,
            folder,
            frozen,
            writer,
            records,
            progress: Progress::new(setup.is_quiet(), per_step, settings.iters),
            about,
            unread: (0, 0),
            saved_at,
            unsaved: None,
            losses: Losses::default(),
            trainer,
        };
        let yaml = setup.yaml()?;
        file::replace(session.folder.join("settings.yaml"), yaml.as_bytes())?;
        if start.saved.is_some() {
            let (iteration, all) = (session.iteration(), settings.iters);
            session.progress.say(&format!("Going on at iteration {iteration} of {all}."));
        } else {
            // A run has something to go on from at every moment, and a full disk shows at once.
            session.write_state().await?;
        }
        Ok(session)
    }

    fn iteration(&self) -> u64 {
        self.trainer.steps() * self.setup.settings.grad_accumulation_steps as u64
    }

    /// Whether a multiple of `every` iterations is among those of the last step.
    fn is_due(&self, every: u64) -> bool {
        let per_step = self.setup.settings.grad_accumulation_steps as u64;
        let iteration = self.iteration();
        iteration / every != (iteration - per_step) / every
    }

    /// Takes the steps that are left, and saves what came of them: also after an error, what was
    /// learned until then is kept.
    ///
    /// # Errors
    /// That of the steps, else that of the save or of a file.
    pub async fn train(&mut self) -> Result<Ending> {
        let trained = self.steps().await;
        let read = self.look(false).await;
        // What was saved by a run that was killed before it wrote the adapter is written as well.
        let saved = self.save(None).await;
        let written = self.records.finish();
        let unsaved = self.unsaved.take().map_or(Ok(()), Err);
        let ending = trained?;
        read.and(saved)?;
        unsaved.and(written).map_err(Error::into_output)?;
        self.say_end(ending);
        Ok(ending)
    }

    fn say_end(&self, ending: Ending) {
        let settings = &self.setup.settings;
        let folder = self.folder.display();
        if self.records.skipped() > 0 {
            let skipped = self.records.skipped();
            self.progress.say(&format!("{skipped} steps were skipped: metrics.jsonl says why."));
        }
        match ending {
            Ending::Done => self.progress.say(&format!("Saved final weights to {folder}.")),
            _ => self.progress.say(&format!(
                "Saved at iteration {} of {} to {folder}; --resume goes on.",
                self.iteration(),
                settings.iters
            )),
        }
        if let Some(best) = &self.about.best {
            let Best { iteration, loss } = best;
            let best = self.folder.join("best");
            self.progress.say(&format!(
                "The lowest validation loss, {loss:.3}, is that of iteration {iteration}: {}.",
                best.display()
            ));
        }
    }

    async fn steps(&mut self) -> Result<Ending> {
        let setup = self.setup;
        let Some(training) = &setup.data.training else { return Ok(Ending::Done) };
        let (total, start) = (setup.settings.steps(), self.trainer.steps());
        let looked = if start == 0 { self.validate().await.map(drop) } else { Ok(()) };
        self.progress.start();
        let mut batches = Prefetch::new(training.training(setup.settings.seed), start, AHEAD)?;
        let mut looked = looked;
        loop {
            let next = looked.and_then(|()| self.next(&mut batches, total));
            let Some((counted, batch)) = setup.ranks.take_together(next)? else { break };
            setup.ranks.step(&mut self.trainer, &batch).await?;
            self.unread.0 += counted;
            self.unread.1 += 1;
            looked = self.after_step(self.trainer.steps() == total).await;
        }
        if self.trainer.steps() < total {
            let heard = setup.ranks.heard(self.signals.received())?;
            return Ok(heard.map_or(Ending::Done, Ending::Stopped));
        }
        self.progress.say_data(&batches.statistics());
        Ok(Ending::Done)
    }

    /// What this rank has of the next batch, unless the run is to end here.
    fn next(
        &mut self,
        batches: &mut Prefetch<(u64, Batch)>,
        total: u64,
    ) -> Result<Option<(u64, Batch)>> {
        let ranks = &self.setup.ranks;
        if self.trainer.steps() >= total || self.signals.received().is_some() {
            return Ok(None);
        }
        let Some((counted, batch)) = batches.next().transpose()? else { return Ok(None) };
        self.regain.before_step(self.trainer.steps());
        if !ranks.are_several() {
            return Ok(Some((counted, batch)));
        }
        // Between steps the others can be told.
        self.trainer.gpu().check()?;
        Ok(Some((counted, batch.of_rank(ranks.rank(), ranks.size())?)))
    }

    async fn after_step(&mut self, is_last: bool) -> Result<()> {
        let settings = &self.setup.settings;
        let reports = is_last || self.is_due(settings.steps_per_report);
        let validates = is_last || self.is_due(settings.steps_per_eval);
        let saves = self.is_due(settings.save_every);
        if reports || validates || saves || self.unread.1 >= UNREAD {
            self.look(validates).await?;
            if saves {
                self.save(Some(self.iteration())).await?;
            }
            self.progress.start();
        }
        Ok(())
    }

    /// Reads what the steps since the last look left, says and records it.
    async fn look(&mut self, validates: bool) -> Result<()> {
        let steps = self.trainer.telemetry().await?;
        let (tokens, _) = std::mem::take(&mut self.unread);
        self.about.trained_tokens += tokens;
        let speed = self.progress.take(&steps, tokens);
        let Some(last) = steps.last() else { return Ok(()) };
        let settings = &self.setup.settings;
        let is_last = last.step + 1 == settings.steps();
        for step in &steps[..steps.len() - 1] {
            self.record(step, speed, None);
        }
        if is_last || self.is_due(settings.steps_per_report) {
            let bytes = self.trainer.report().total_bytes();
            self.progress.say_training(last, self.about.trained_tokens, bytes);
        }
        // The step is recorded with it, also where there is none.
        let validated = if validates { self.validate().await } else { Ok(None) };
        self.record(last, speed, validated.as_ref().ok().copied().flatten());
        validated.map(drop)
    }

    fn record(&mut self, step: &evenkeel::train::Telemetry, speed: f64, validation: Option<f64>) {
        if step.applied {
            self.losses.last = Some(step.loss.into());
        }
        let threshold = self.setup.settings.spike_threshold;
        let events = reactions::of(step, threshold, self.trainer.parameters());
        events.iter().for_each(|event| self.progress.say_event(step.step, event));
        // What was lost was said when it was.
        let events = self.events.drain(..).chain(events).collect();
        let mut record = records::record(step, events, speed);
        if let Some(loss) = validation {
            record.set(scalar::VALIDATION_LOSS, loss);
        }
        self.records.push(record);
    }

    /// Measures the loss on other data, and keeps what is best by it.
    async fn validate(&mut self) -> Result<Option<f64>> {
        let setup = self.setup;
        let Some(validation) = setup.data.validation.as_ref() else { return Ok(None) };
        let begun = Instant::now();
        let loss = self.loss_on(validation).await?;
        let iteration = self.iteration();
        self.losses.validation = Some(loss);
        self.progress.say_validation(iteration, loss, begun.elapsed());
        let is_better = self.about.best.is_none_or(|best| loss < best.loss);
        if is_better && loss.is_finite() {
            self.about.best = Some(Best { iteration, loss });
            let folder = self.folder.join("best");
            let saved = self.write_best(&folder).await;
            self.tolerate(saved)?;
        }
        Ok(Some(loss))
    }

    async fn loss_on(&mut self, set: &Set) -> Result<f64> {
        let batches = self.setup.measured(set, self.setup.settings.val_batches)?;
        setup::loss_on(&mut self.trainer, &batches).await
    }

    async fn write_best(&mut self, folder: &Path) -> Result<()> {
        self.writer.save(learned(&mut self.trainer).await?, folder).await
    }

    /// Saves what was trained, with a copy under a number where one is given, and then what it takes
    /// to go on.
    async fn save(&mut self, number: Option<u64>) -> Result<()> {
        self.records.sync();
        let saved = self.write_all(number).await;
        if saved.is_ok() {
            self.unsaved = None;
        }
        self.tolerate(saved)
    }

    async fn write_all(&mut self, number: Option<u64>) -> Result<()> {
        let parameters = learned(&mut self.trainer).await?;
        self.writer.save(parameters, &self.folder).await?;
        if let Some(iteration) = number {
            let path = self.writer.save_numbered(parameters, &self.folder, iteration).await?;
            self.progress.say(&format!(
                "Iter {iteration}: Saved adapter weights to {} and {}.",
                self.folder.display(),
                path.display()
            ));
        }
        if self.saved_at != Some(self.trainer.steps()) {
            self.write_state().await?;
        }
        Ok(())
    }

    async fn write_state(&mut self) -> Result<()> {
        let checkpoint = self.state().await?;
        let [state, previous] = state_files(&self.folder);
        Saved::write(&state, &previous, &checkpoint, &self.about)?;
        self.saved_at = Some(checkpoint.steps());
        Ok(())
    }

    /// What cannot be written does not end the run: it is said, tried again with the next save, and
    /// an error at the end if it is still missing then.
    fn tolerate(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(error @ (Error::File { .. } | Error::ModelFile { .. })) => {
                let step = self.saved_at.unwrap_or(0);
                warn(format!("{error}; the run goes on, its last save is that of step {step}"));
                self.unsaved = Some(error);
                Ok(())
            }
            other => other,
        }
    }

    /// What it takes to go on, of which other ranks may have a part.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn state(&self) -> Result<Checkpoint> {
        if self.setup.settings.shard_optimizer {
            self.setup.ranks.ask_for_checkpoint()?;
        }
        self.trainer.checkpoint_of_trained(&self.frozen).await
    }

    /// Measures the loss on test data of what was trained last.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn test(&mut self) -> Result<()> {
        self.losses.test = setup::say_test_loss(self.setup, &mut self.trainer).await?;
        Ok(())
    }

    /// What came of it, as an object.
    pub fn result(&self) -> Value {
        let (iteration, skipped) = (self.iteration(), self.records.skipped());
        let settings = &self.setup.settings;
        result::as_json(&self.folder, settings, &self.about, (iteration, skipped, self.losses))
    }
}

/// What a run has learned: the averages of the weights where they are kept.
async fn learned(trainer: &mut Trainer<LanguageModel>) -> Result<&Parameters> {
    match trainer.ema() {
        Some(_) => trainer.averaged().await,
        None => Ok(trainer.parameters()),
    }
}
