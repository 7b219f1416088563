//! A run: what is around the steps of a training.

use std::path::Path;
use std::time::{Duration, Instant};

use super::outputs::{PREVIOUS, WEIGHTS};
use super::profile::ProfiledSteps;
use super::{
    About, Ending, Folder, Monitor, Options, Outputs, Saved, Settings, Signal, Signals, Text,
    description, say, warn,
};
use crate::data::Corpus;
use crate::error::{Error, Result};
use crate::file;
use crate::gpu::Gpu;
use crate::nn::LanguageModel;
use crate::train::{Batch, Trainer};

/// A run of a language model, with its folder, its text and its files.
///
/// [`open`](Self::open) finds everything that can be wrong without a device,
/// [`settings`](Self::settings) what can be wrong with sizes, [`begin`](Self::begin) the rest;
/// then [`step`](Self::step)s follow, [`after_step`](Self::after_step) behind each, and
/// [`end`](Self::end).
pub struct Run {
    options: Options,
    signals: Signals,
    _folder: Folder,
    outputs: Outputs,
    text: Text,
    prompt: Vec<u32>,
    saved: Option<Saved>,
    active: Option<Active>,
}

/// What a run has once it has begun.
struct Active {
    monitor: Monitor,
    clock: Clock,
    steps: u64,
    /// Steps between two reports, validations, saves; 0 for none.
    every: [u64; 3],
    about: About,
    /// Steps at the last save.
    saved_at: u64,
    /// Why the last try to save failed.
    unsaved: Option<Error>,
    profiled: Option<ProfiledSteps>,
}

impl Run {
    /// Claims the folder, reads the text and the last save, and checks what options name. The
    /// text is a file, or `repository`'s where options name none.
    ///
    /// # Errors
    /// Whatever is wrong with options, text and files.
    pub fn open(options: &Options, repository: &Path) -> Result<Self> {
        let signals = Signals::listen()?;
        let folder = Folder::claim(&options.out, "--out")?;
        let [weights, previous] = [WEIGHTS, PREVIOUS].map(|name| folder.file(name));
        let saved = if options.resume { Saved::<About>::read(&weights, &previous)? } else { None };
        if options.resume && saved.is_none() {
            warn(format!("{} has no save to go on from: a run begins", options.out.display()));
        } else if !options.resume && !options.restart {
            refuse_unfinished(&Saved::read(&weights, &previous), &options.out)?;
        }
        let options = match &saved {
            Some(saved) => options.over(&saved.about.options)?,
            None => options.clone(),
        };
        let options = options.with_absolute_paths()?;
        let text = match &options.text {
            Some(path) => Text::file(path, options.bytes)?,
            None => Text::repository(repository, options.bytes)?,
        };
        if let Some(saved) = &saved {
            text.check(&saved.about.text)?;
        }
        let prompt = text.prompt(options.prompt.as_deref())?;
        let read: Vec<_> =
            text.files.iter().map(|path| ("--text".to_owned(), path.clone())).collect();
        let outputs = Outputs::prepare(&options, &folder, &read)?;
        Ok(Self { options, signals, _folder: folder, outputs, text, prompt, saved, active: None })
    }

    /// The options, checked, with what a preset or a save says in the place of what was not given.
    ///
    /// # Errors
    /// [`Error::Setting`], and [`Error::Data`] for a text too short for the context.
    pub fn settings(&mut self, gpu: &Gpu) -> Result<Settings> {
        let vocabulary = self.corpus().vocabulary().size();
        let (settings, options) = self.options.settings(gpu.is_software(), vocabulary)?;
        self.options = options;
        Ok(settings)
    }

    /// The text.
    pub fn corpus(&self) -> &Corpus {
        &self.text.corpus
    }

    /// What the sample begins with.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The options as they were resolved.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The signal that asked to stop, if there was one.
    pub fn signal(&self) -> Option<Signal> {
        self.signals.received()
    }

    /// Brings the trainer to where the run was saved, or makes the first save, and opens the files.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a trainer of another model, [`Error::File`].
    pub async fn begin(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        settings: &Settings,
    ) -> Result<()> {
        let about = About { options: self.options.clone(), text: self.text.fingerprint() };
        match self.saved.take() {
            Some(saved) => {
                trainer.restore(&saved.checkpoint).await?;
                let steps = trainer.steps();
                if !self.options.quiet {
                    say!("resumed  at step {steps} of {}", settings.steps);
                }
            }
            None => {
                let Outputs { weights, previous, .. } = &self.outputs;
                Saved::write(weights, previous, &trainer.checkpoint().await?, &about)?;
            }
        }
        let start = trainer.steps();
        let extent = (start, settings.steps, settings.warmup);
        let report = description::report(settings, trainer);
        let monitor = Monitor::new(&self.outputs, &self.options, report, extent)?;
        let tokens = settings.batch * settings.accumulation * settings.context;
        let every = [settings.report_every, settings.evaluate_every, settings.save_every];
        self.active = Some(Active {
            monitor,
            clock: Clock { tokens_per_step: tokens, since: Instant::now() },
            steps: settings.steps as u64,
            every: every.map(|steps| steps as u64),
            about,
            saved_at: start,
            unsaved: None,
            profiled: ProfiledSteps::of(&self.options, start, settings.steps as u64),
        });
        Ok(())
    }

    fn active(&mut self) -> &mut Active {
        self.active.as_mut().expect("the run has begun")
    }

    /// Whether there is a step to take after this many: not at the end, and not where a signal or
    /// a key asked to stop.
    ///
    /// # Panics
    /// Before [`begin`](Self::begin), as all that follow.
    pub fn goes_on(&mut self, done: u64) -> bool {
        let stop = self.signal().is_some();
        let active = self.active();
        done < active.steps && !active.monitor.is_stopped() && !stop
    }

    /// Takes a step; where options ask for it, some of the first are profiled, and what they took
    /// is printed and written.
    ///
    /// # Errors
    /// As [`Trainer::step`]. What cannot be written does not end the run.
    pub async fn step(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        batch: &Batch,
    ) -> Result<()> {
        let active = self.active();
        match &mut active.profiled {
            Some(profiled) if profiled.are_next(trainer) => {
                let (tables, beside) = profiled.take(trainer, batch).await?;
                tables.into_iter().for_each(|text| active.monitor.print(text));
                active.clock.since += beside;
                Ok(())
            }
            _ => trainer.step(batch).await,
        }
    }

    /// What follows a step: telemetry is read, the loss on other data is measured with `validate`,
    /// and the run is saved, each where it is due.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], and those of `validate`. What cannot be written does not end the run.
    pub async fn after_step(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        validate: impl AsyncFnOnce(&mut Trainer<LanguageModel>) -> Result<f32>,
    ) -> Result<()> {
        let (done, active) = (trainer.steps(), self.active());
        let is_last = done == active.steps;
        let due = |every: u64| every != 0 && done.is_multiple_of(every);
        let [report, validation, save] = active.every.map(due);
        let validation = validation || is_last;
        if report || validation || save {
            // What is saved is in the records as well.
            self.report(trainer, validation.then_some(validate)).await?;
            if save {
                self.save(trainer).await?;
            }
            self.active().clock.since = Instant::now();
        }
        Ok(())
    }

    async fn report<V>(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        validate: Option<V>,
    ) -> Result<()>
    where
        V: AsyncFnOnce(&mut Trainer<LanguageModel>) -> Result<f32>,
    {
        let telemetry = trainer.telemetry().await?;
        let tensors = trainer.tensor_telemetry().await?;
        let speed = self.active().clock.tokens_per_second(telemetry.len());
        let validated = match validate {
            Some(validate) => validate(trainer).await.map(Some),
            None => Ok(None),
        };
        let loss = validated.as_ref().ok().copied().flatten().map(f64::from);
        self.active().monitor.report(&telemetry, &tensors, speed, loss);
        validated.map(drop)
    }

    async fn save(&mut self, trainer: &Trainer<LanguageModel>) -> Result<()> {
        let checkpoint = trainer.checkpoint().await?;
        let Outputs { weights, previous, .. } = self.outputs.clone();
        let active = self.active();
        active.monitor.sync();
        match Saved::write(&weights, &previous, &checkpoint, &active.about) {
            Ok(()) => {
                active.saved_at = checkpoint.steps();
                active.unsaved = None;
            }
            Err(error) => {
                let steps = active.saved_at;
                warn(format!("{error}; the run goes on, its last save is that of step {steps}"));
                active.unsaved = Some(error);
            }
        }
        Ok(())
    }

    /// Ends the run as `trained` says it went: also after an error, what was measured and learned
    /// until then is kept. Says what lies where.
    ///
    /// # Errors
    /// That of `trained`, else that of the save or of a file.
    pub async fn end(
        &mut self,
        trainer: &mut Trainer<LanguageModel>,
        trained: Result<()>,
    ) -> Result<Ending> {
        let mut result = trained;
        type Validate = fn(&mut Trainer<LanguageModel>) -> std::future::Ready<Result<f32>>;
        let reported = self.report(trainer, None::<Validate>).await;
        result = result.and(reported);
        if self.active().saved_at < trainer.steps() {
            let saved = self.save(trainer).await;
            result = result.and(saved);
        }
        let signal = self.signal();
        let mut active = self.active.take().expect("the run has begun");
        let mut written = Ok(());
        if let Some(profiled) = &mut active.profiled {
            // A run may have ended in the middle of them.
            profiled.tell().into_iter().for_each(|text| active.monitor.print(text));
            written = profiled.write();
        }
        let written = active.monitor.finish().and(written);
        let result = result.and(active.unsaved.map_or(Ok(()), Err)).and(written);
        if active.saved_at < active.steps {
            say!("saved    at step {} of {}; --resume goes on", active.saved_at, active.steps);
        }
        result.map(|()| signal.map_or(Ending::Done, Ending::Stopped))
    }

    /// Writes generated text to its file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_sample(&self, text: &[u8]) -> Result<()> {
        file::replace(&self.outputs.sample, text)
    }

    /// Says what lies where.
    pub fn print_outputs(&self, sampled: bool) {
        self.outputs.print(sampled);
    }
}

/// The weights of a run that did not come to its end are not written over by accident; those of one
/// that did are the previous save of the new one. What cannot be read is no run's.
fn refuse_unfinished(found: &Result<Option<Saved>>, out: &Path) -> Result<()> {
    match found {
        Ok(Some(saved)) if !saved.is_over() => Err(Error::File {
            path: out.to_owned(),
            reason: format!(
                "there is a run that has come to step {} of {}; --resume goes on with it, \
                 --restart begins anew in its place, --out takes another folder",
                saved.checkpoint.steps(),
                saved.about.options.steps.unwrap_or(0)
            ),
        }),
        _ => Ok(()),
    }
}

/// Times steps, and nothing that happens between two of them.
struct Clock {
    tokens_per_step: usize,
    since: Instant,
}

impl Clock {
    fn tokens_per_second(&self, steps: usize) -> f64 {
        let elapsed = self.since.elapsed().max(Duration::from_nanos(1));
        (steps * self.tokens_per_step) as f64 / elapsed.as_secs_f64()
    }
}
