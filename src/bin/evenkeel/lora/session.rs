//! A run: its steps, and what is measured, said and saved between them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use evenkeel::data::Prefetch;
use evenkeel::nn::LanguageModel;
use evenkeel::plan::Parameters;
use evenkeel::run::{Ending, Saved, Signals, warn};
use evenkeel::train::ranks::Round;
use evenkeel::train::{Batch, FrozenFingerprint, Trainer};
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
use crate::ranks::learner::{Learner, State};
use crate::ranks::rounds;
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
    learner: Learner,
    frozen: FrozenFingerprint,
    writer: Writer,
    records: Records,
    progress: Progress,
    about: About,
    /// Targets that counted in steps that were not read yet, and how many those are.
    unread: (u64, u64),
    /// What is to be recorded, and with which step.
    events: Vec<(u64, String)>,
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
        let device = crate::device::name(&gpu);
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
        let start_at = trainer.steps();
        let events = regain.goes_on_from(start_at).into_iter().map(|event| (start_at, event));
        let mut session = Self {
            setup,
            signals,
            events: events.collect(),
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
            learner: Learner::Together(Box::new(trainer)),
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
        self.learner.trainer().steps() * self.setup.settings.grad_accumulation_steps as u64
    }

    /// Whether a multiple of `every` iterations is among those of the last step.
    fn is_due(&self, every: u64) -> bool {
        let steps = self.learner.trainer().steps();
        self.setup.settings.passes(every, steps - 1, steps)
    }

    /// Goes on from here with ranks that take steps by themselves, where the settings say so.
    ///
    /// # Errors
    /// As [`Learner::begin`].
    pub async fn part(self) -> Result<Self> {
        let Self { learner: Learner::Together(trainer), setup, .. } = self else {
            return Ok(self);
        };
        let learner = Learner::begin(*trainer, setup.diloco, &setup.ranks, &self.folder).await;
        Ok(Self { learner: setup.ranks.agree(learner)?, ..self })
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
        // After an error ranks may be at other steps, unless they take each together.
        let are_together = trained.is_ok() || !self.learner.is_apart();
        let saved = if are_together { self.save(None).await } else { Ok(()) };
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
        let (total, start) = (setup.settings.steps(), self.learner.trainer().steps());
        let looked = if start == 0 { self.validate().await.map(drop) } else { Ok(()) };
        self.progress.start();
        let mut batches = Prefetch::new(training.training(setup.settings.seed), start, AHEAD)?;
        let mut looked = looked;
        loop {
            let meets = self.learner.meets(total);
            let next = looked.and_then(|()| self.next(&mut batches, total, meets));
            let (counted, batch) = match next {
                Ok(Some(next)) if !meets => next,
                next => match setup.ranks.take_together(next)? {
                    Some(next) => next,
                    None => break,
                },
            };
            let taken = self.learner.step(&setup.ranks, &batch, total).await;
            self.unread.0 += counted;
            self.unread.1 += 1;
            looked = match taken {
                Ok(round) => self.after_step(round).await,
                // The others hear of it where they meet next.
                Err(error) if self.learner.is_apart() => Err(error),
                Err(error) => return Err(error),
            };
        }
        if self.learner.trainer().steps() < total {
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
        meets: bool,
    ) -> Result<Option<(u64, Batch)>> {
        let ranks = &self.setup.ranks;
        // A signal ends the run where others are met.
        let is_stopped = meets && self.signals.received().is_some();
        if self.learner.trainer().steps() >= total || is_stopped {
            return Ok(None);
        }
        let Some((counted, batch)) = batches.next().transpose()? else { return Ok(None) };
        self.regain.before_step(self.learner.trainer().steps());
        if !ranks.are_several() {
            return Ok(Some((counted, batch)));
        }
        // Between steps the others can be told.
        self.learner.trainer().gpu().check()?;
        Ok(Some((counted, batch.of_rank(ranks.rank(), ranks.size())?)))
    }

    /// What is due: of ranks that take steps by themselves, all but reports where they have met.
    async fn after_step(&mut self, round: Option<Round>) -> Result<()> {
        let (settings, steps) = (&self.setup.settings, self.learner.trainer().steps());
        let before = match &round {
            Some(round) => steps - round.steps,
            None if self.learner.is_apart() => steps,
            None => steps - 1,
        };
        if let Some(round) = &round {
            self.events.push((steps - 1, rounds::told(round)));
            for left_out in &round.left_out {
                warn(format!("round {}: {left_out}", round.number));
            }
        }
        let is_last = steps == settings.steps();
        let reports = is_last || self.is_due(settings.steps_per_report);
        let validates = is_last || settings.passes(settings.steps_per_eval, before, steps);
        let saves = settings.passes(settings.save_every, before, steps);
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
        let steps = self.learner.trainer_mut().telemetry().await?;
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
            let bytes = self.learner.trainer().report().total_bytes();
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
        let events = reactions::of(step, threshold, self.learner.trainer().parameters());
        events.iter().for_each(|event| self.progress.say_event(step.step, event));
        // What was lost was said when it was.
        let before = self.events.extract_if(.., |(at, _)| *at <= step.step);
        let events = before.map(|(_, event)| event).chain(events).collect();
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
        setup::loss_on(self.learner.trainer_mut(), &batches).await
    }

    async fn write_best(&mut self, folder: &Path) -> Result<()> {
        self.writer.save(learned(self.learner.trainer_mut()).await?, folder).await
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
        let parameters = learned(self.learner.trainer_mut()).await?;
        self.writer.save(parameters, &self.folder).await?;
        if let Some(iteration) = number {
            let path = self.writer.save_numbered(parameters, &self.folder, iteration).await?;
            self.progress.say(&format!(
                "Iter {iteration}: Saved adapter weights to {} and {}.",
                self.folder.display(),
                path.display()
            ));
        }
        if self.saved_at != Some(self.learner.trainer().steps()) {
            self.write_state().await?;
        }
        Ok(())
    }

    async fn write_state(&mut self) -> Result<()> {
        let state = self.state().await?;
        let [last, previous] = state_files(&self.folder);
        self.learner.write_own(&state)?;
        Saved::write(&last, &previous, state.checkpoint(), &self.about)?;
        self.saved_at = Some(state.checkpoint().steps());
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
    pub async fn state(&self) -> Result<State> {
        if self.setup.settings.shard_optimizer {
            self.setup.ranks.ask_for_checkpoint()?;
        }
        self.learner.state(Some(&self.frozen)).await
    }

    /// Measures the loss on test data of what was trained last.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn test(&mut self) -> Result<()> {
        self.losses.test = setup::say_test_loss(self.setup, self.learner.trainer_mut()).await?;
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
