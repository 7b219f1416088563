//! The steps of a rank that follows: those of rank 0, with its own part of each.

use std::path::Path;

use evenkeel::nn::LanguageModel;
use evenkeel::run::{Signals, warn};
use evenkeel::train::ranks::{DiLoCoSettings, Round};
use evenkeel::train::{Batch, Checkpoint, FrozenFingerprint, Trainer};
use evenkeel::{Gpu, Result};

use super::learner::Learner;
use super::{Log, Ranks, rounds};

/// One of the other ranks, from the moment on at which it has a trainer.
pub struct Follower<'a> {
    pub ranks: &'a Ranks,
    pub gpu: &'a Gpu,
    pub signals: &'a Signals,
    pub learner: Learner,
    /// Where checkpoints are of what is trained alone.
    pub frozen: Option<FrozenFingerprint>,
    /// The last step of the run.
    pub steps: u64,
    /// Steps between two readings of the telemetry.
    pub report_every: u64,
    /// Whether the run is saved behind a round, by the steps before it and behind it.
    pub saves: &'a dyn Fn(u64, u64) -> bool,
    /// Steps at the last save of what this rank alone has.
    pub saved_at: u64,
}

impl Follower<'_> {
    /// Comes to where rank 0 is, which loads or restores, and saves; `frozen` is what this rank has
    /// found of the weights that no checkpoint has.
    ///
    /// # Errors
    /// What goes wrong here, and [`Error::Rank`](evenkeel::Error) for what does elsewhere.
    pub async fn catch_up(&mut self, frozen: Result<Option<FrozenFingerprint>>) -> Result<()> {
        let found = frozen.map(|frozen| self.frozen = frozen);
        self.stay(found).await?;
        let state = self.ranks.broadcast_bytes(Ok(Vec::new()))?;
        let restored = restore(self.learner.trainer_mut(), &self.frozen, &state).await;
        self.ranks.agree(restored)?;
        self.saved_at = self.learner.trainer().steps();
        Ok(())
    }

    /// Takes steps by itself from here on, where the run is one with DiLoCo.
    ///
    /// # Errors
    /// As [`Learner::begin`].
    pub async fn part(self, settings: Option<DiLoCoSettings>, folder: &Path) -> Result<Self> {
        let Self { learner: Learner::Together(trainer), ranks, .. } = self else {
            return Ok(self);
        };
        let learner = Learner::begin(*trainer, settings, ranks, folder).await;
        Ok(Self { learner: ranks.agree(learner)?, ..self })
    }

    /// Takes steps as long as all ranks do, and stays until rank 0 has saved what came of them.
    /// `batches` are the parts that this rank has, from its step on.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up).
    pub async fn follow(
        &mut self,
        batches: Result<impl Iterator<Item = Result<Batch>>>,
        log: &mut Log,
    ) -> Result<()> {
        let mut followed = self.take_steps(batches, log).await;
        if followed.is_ok() && self.saved_at < self.learner.trainer().steps() {
            followed = self.save(log).await;
        }
        self.stay(followed).await
    }

    /// Gives rank 0 what it asks for, until all agree about how it went.
    ///
    /// # Errors
    /// That of `own`, and [`Error::Rank`](evenkeel::Error).
    pub async fn stay(&self, own: Result<()>) -> Result<()> {
        self.heed(own.map(Some)).await.map(drop)
    }

    async fn take_steps(
        &mut self,
        batches: Result<impl Iterator<Item = Result<Batch>>>,
        log: &mut Log,
    ) -> Result<()> {
        let (mut batches, mut looked) = match batches {
            Ok(batches) => (Some(batches), Ok(())),
            Err(error) => (None, Err(error)),
        };
        loop {
            let meets = self.learner.meets(self.steps);
            let next = match looked {
                Err(error) => Err(error),
                Ok(()) if self.is_over(meets) => Ok(None),
                Ok(()) => {
                    let mut next = || batches.as_mut().and_then(Iterator::next).transpose();
                    self.gpu.check().and_then(|()| next())
                }
            };
            let batch = match next {
                Ok(Some(batch)) if !meets => batch,
                next => match self.heed(next).await? {
                    Some(batch) => batch,
                    None => break,
                },
            };
            looked = match self.learner.step(self.ranks, &batch, self.steps).await {
                Ok(round) => self.after_step(round, log).await,
                // The others hear of it where they meet next.
                Err(error) if self.learner.is_apart() => Err(error),
                Err(error) => return Err(error),
            };
        }
        if self.learner.trainer().steps() < self.steps {
            self.ranks.heard(self.signals.received())?;
        }
        Ok(())
    }

    fn is_over(&self, meets: bool) -> bool {
        let is_stopped = meets && self.signals.received().is_some();
        self.learner.trainer().steps() >= self.steps || is_stopped
    }

    /// Goes on with the others, once rank 0 has what it asks for.
    async fn heed<T>(&self, own: Result<Option<T>>) -> Result<Option<T>> {
        // Where it cannot be made, rank 0 hears of it with this one.
        let give = async || drop(self.learner.state(self.frozen.as_ref()).await);
        self.ranks.heed(own, give).await
    }

    async fn after_step(&mut self, round: Option<Round>, log: &mut Log) -> Result<()> {
        let steps = self.learner.trainer().steps();
        if steps.is_multiple_of(self.report_every) {
            // That of all ranks, unless they take steps by themselves: a run that gives up does so on each.
            if let Some(last) = self.learner.trainer_mut().telemetry().await?.last() {
                log.say(format_args!("step {}: loss {}", last.step + 1, last.loss));
            }
        }
        let Some(round) = round else { return Ok(()) };
        log.say(format_args!("{}", rounds::told(&round)));
        match (self.saves)(steps - round.steps, steps) {
            true => self.save(log).await,
            false => Ok(()),
        }
    }

    /// Saves what this rank alone has. The run goes on where that cannot be written.
    async fn save(&mut self, log: &mut Log) -> Result<()> {
        if !self.learner.is_apart() {
            return Ok(());
        }
        let state = self.learner.state(self.frozen.as_ref()).await?;
        self.saved_at = self.learner.trainer().steps();
        if let Err(error) = self.learner.write_own(&state) {
            warn(&error);
            log.say(format_args!("not saved: {error}"));
        }
        Ok(())
    }
}

async fn restore(
    trainer: &mut Trainer<LanguageModel>,
    frozen: &Option<FrozenFingerprint>,
    state: &[u8],
) -> Result<()> {
    let checkpoint = Checkpoint::from_bytes(state)?;
    match frozen {
        None => trainer.restore(&checkpoint).await,
        Some(frozen) => trainer.restore_trained(&checkpoint, frozen).await,
    }
}
