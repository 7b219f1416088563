//! A run on one device: to its end, or until that device is lost.

use evenkeel::file;
use evenkeel::nn::LanguageModel;
use evenkeel::run::{self, CompileBar, Ending, OutputOptions, Outputs, Saved, Signals, say};
use evenkeel::train::Trainer;
use evenkeel::{Error, Result};

use super::describe;
use super::dial::Reason;
use super::options::Options;
use super::place::{About, Place};
use super::prepared::Prepared;
use super::session::{Fixed, Session};
use super::settings::{Resolved, Settings};
use super::{CONFIGURATION, split};
use super::{result, sample};
use crate::ranks::learner::Learner;
use crate::ranks::{Ranks, Share};
use crate::regain::Regain;

/// What all attempts have in common, and what the next one goes on from.
pub struct Attempt<'a> {
    pub place: Place,
    pub ground: &'a Prepared,
    pub settings: Settings,
    /// As they were resolved.
    pub options: Options,
    pub reasons: Vec<Reason>,
    pub outputs: Outputs,
    pub library: OutputOptions,
    pub signals: &'a Signals,
    /// Who else takes part, and what this rank has of a step.
    pub together: (&'a Ranks, Share),
    /// Whether there was one before.
    is_again: bool,
    /// Whether the newest save in the folder is one of this run.
    has_begun: bool,
}

impl<'a> Attempt<'a> {
    pub fn new(
        place: Place,
        ground: &'a Prepared,
        Resolved { settings, options, reasons }: Resolved,
        (outputs, library): (Outputs, OutputOptions),
        signals: &'a Signals,
        together: (&'a Ranks, Share),
    ) -> Self {
        let has_begun = place.saved.is_some();
        Self {
            place,
            ground,
            settings,
            options,
            reasons,
            outputs,
            library,
            signals,
            together,
            is_again: false,
            has_begun,
        }
    }

    /// Brings the model to the device, and trains it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], after which the next attempt goes on from the last save; others end
    /// the run.
    pub async fn run(&mut self, regain: &mut Regain) -> Result<Ending> {
        let saved = self.saved()?;
        let gpu = regain.gpu().clone();
        let (ranks, share) = self.together;
        let Prepared { tokens, .. } = self.ground;
        let (training, validation) = split((&tokens.cache, &tokens.name), &self.settings)?;
        let compiling = CompileBar::new(&gpu, self.place.options.quiet);
        let mut trainer = self.settings.build_of(share, &gpu, ranks).await?;
        drop(compiling);
        if !self.is_again {
            self.say_beginning(saved.is_some(), &trainer, training.tokens());
        }
        let about = self.load(&saved, &mut trainer).await;
        let resumed = saved.as_ref().filter(|_| ranks.are_several());
        let resumed = resumed.map(|saved| saved.checkpoint.to_bytes());
        self.is_again = true;
        let fixed = Fixed {
            together: self.together,
            settings: &self.settings,
            tokens: &self.ground.tokens,
            training,
            validation,
            out: &self.place.out,
            outputs: &self.outputs,
            library: &self.library,
            signals: self.signals,
        };
        let begun = match about {
            Ok(about) => Session::begin(fixed, &mut trainer, saved, about, regain).await,
            Err(error) => Err(error),
        };
        let begun = match begun {
            // The others are not where it was saved yet.
            Ok(session) if ranks.are_several() && resumed.is_none() => {
                let state = session.checkpoint(&trainer).await;
                state.map(|state| (session, state.to_bytes()))
            }
            begun => begun.map(|session| (session, resumed.unwrap_or_default())),
        };
        let (mut session, state) = ranks.agree(begun)?;
        self.has_begun = true;
        if ranks.are_several() {
            ranks.broadcast_bytes(Ok(state))?;
            // The others are where this one is.
            ranks.agree(Ok(()))?;
        }
        let learner = Learner::begin(trainer, self.settings.diloco, ranks, &self.place.out).await;
        let mut learner = ranks.agree(learner)?;
        let trained = session.train(&mut learner, regain).await;
        let heard = trained.as_ref().ok().copied().flatten();
        let ended = match trained {
            Err(lost @ Error::DeviceLost { .. }) => {
                session.leave();
                Err(lost)
            }
            trained => session.end(&mut learner, trained.map(drop)).await,
        };
        // Until here the others were there for its checkpoints.
        let ended = ranks.agree(ended)?;
        let heard = heard.or_else(|| self.signals.received());
        let mut ending = heard.map_or(Ending::Done, Ending::Stopped);
        let Prepared { tokens, prompt, .. } = self.ground;
        let (settings, outputs) = (&self.settings, &self.outputs);
        let sampled = settings.sample > 0 && ended.model.is_some() && ending == Ending::Done;
        if sampled {
            let trainer = learner.trainer_mut();
            ending =
                sample::write(trainer, settings, tokens, prompt, outputs, self.signals).await?;
        }
        describe::outputs(outputs, &ended, sampled);
        if self.place.options.json {
            let result = result::as_json(&self.place.out, settings, outputs, &ended, sampled);
            run::print_result(format_args!("{result}"));
        }
        Ok(ending)
    }

    fn say_beginning(&self, goes_on: bool, trainer: &Trainer<LanguageModel>, tokens: u64) {
        self.warn_of_milestones();
        if self.settings.shard_optimizer {
            self.together.0.warn_of_no_shards();
        }
        if self.place.options.quiet {
            return;
        }
        if !goes_on {
            describe::reasons(&self.reasons);
        }
        describe::settings(&self.settings, trainer, tokens);
        let (ranks, share) = self.together;
        if ranks.are_several() {
            say!("share    {}", describe::share(&self.settings, share, ranks.size()));
        }
    }

    /// Loads the weights that a run begins with, and writes its options; what its saves say of it.
    async fn load(
        &self,
        saved: &Option<Saved<About>>,
        trainer: &mut Trainer<LanguageModel>,
    ) -> Result<About> {
        let device = crate::device::name(trainer.gpu());
        if let Some(saved) = saved {
            self.say_resumed(saved, &device);
        } else if let Some(source) = &self.ground.source {
            trainer.load_weights(&mut source.reader()).await?;
        }
        let written = describe::options(&Options { budget: None, ..self.options.clone() });
        file::replace(self.place.out.join(CONFIGURATION), written.as_bytes())?;
        self.about(device)
    }

    fn warn_of_milestones(&self) {
        let end = self.settings.steps as u64;
        for step in self.settings.milestones.iter().filter(|step| **step > end) {
            run::warn(format!("the run ends before the milestone {step}"));
        }
    }

    /// The save to go on from: the one that the run was resumed at, or the newest since it began.
    fn saved(&mut self) -> Result<Option<Saved<About>>> {
        match self.place.saved.take() {
            None if self.has_begun => Saved::read(&self.outputs.weights, &self.outputs.previous),
            saved => Ok(saved),
        }
    }

    fn about(&self, device: String) -> Result<About> {
        let Prepared { tokens, base, .. } = self.ground;
        Ok(About {
            options: self.options.clone(),
            tokens: tokens.fingerprint.clone(),
            model: base.as_ref().map(|base| base.to_json(None)).transpose()?,
            best: None,
            device: Some(device),
        })
    }

    fn say_resumed(&self, saved: &Saved<About>, device: &str) {
        if let Some(was) = saved.about.device.as_ref().filter(|was| *was != device) {
            run::warn(format!(
                "the run was on {was}; on this adapter its bits are others from here on"
            ));
        }
        if !self.is_again {
            self.place.changes.iter().for_each(|change| say!("changed  {change}"));
        }
        if !self.place.options.quiet {
            say!("resumed  at step {} of {}", saved.checkpoint.steps(), self.settings.steps);
        }
    }
}
