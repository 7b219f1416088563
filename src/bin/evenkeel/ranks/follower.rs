//! The steps of a rank that follows: those of rank 0, with its own part of each.

use evenkeel::nn::LanguageModel;
use evenkeel::run::Signals;
use evenkeel::train::{Batch, Checkpoint, FrozenFingerprint, Trainer};
use evenkeel::{Gpu, Result};

use super::{Log, Ranks};

/// One of the other ranks, from the moment on at which it has a trainer.
pub struct Follower<'a> {
    pub trainer: Trainer<LanguageModel>,
    /// Where checkpoints are of what is trained alone, once it has [caught up](Self::catch_up).
    pub frozen: Option<FrozenFingerprint>,
    pub ranks: &'a Ranks,
    pub gpu: &'a Gpu,
    pub signals: &'a Signals,
    /// The last step of the run.
    pub steps: u64,
    /// Steps between two readings of the telemetry.
    pub report_every: u64,
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
        let restored = self.restore(&state).await;
        self.ranks.agree(restored)
    }

    async fn restore(&mut self, state: &[u8]) -> Result<()> {
        let checkpoint = Checkpoint::from_bytes(state)?;
        match &self.frozen {
            None => self.trainer.restore(&checkpoint).await,
            Some(frozen) => self.trainer.restore_trained(&checkpoint, frozen).await,
        }
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
        let followed = self.steps(batches, log).await;
        self.stay(followed).await
    }

    /// Gives rank 0 what it asks for, until all agree about how it went.
    ///
    /// # Errors
    /// That of `own`, and [`Error::Rank`](evenkeel::Error).
    pub async fn stay(&self, own: Result<()>) -> Result<()> {
        self.heed(own.map(Some)).await.map(drop)
    }

    async fn steps(
        &mut self,
        batches: Result<impl Iterator<Item = Result<Batch>>>,
        log: &mut Log,
    ) -> Result<()> {
        let (mut batches, mut looked) = match batches {
            Ok(batches) => (Some(batches), Ok(())),
            Err(error) => (None, Err(error)),
        };
        loop {
            let is_over = self.trainer.steps() >= self.steps || self.signals.received().is_some();
            let next = match looked {
                Err(error) => Err(error),
                Ok(()) if is_over => Ok(None),
                Ok(()) => {
                    let mut next = || batches.as_mut().and_then(Iterator::next).transpose();
                    self.gpu.check().and_then(|()| next())
                }
            };
            let Some(batch) = self.heed(next).await? else { break };
            self.ranks.step(&mut self.trainer, &batch).await?;
            let is_due = self.trainer.steps().is_multiple_of(self.report_every);
            looked = if is_due { self.look(log).await } else { Ok(()) };
        }
        if self.trainer.steps() < self.steps {
            self.ranks.heard(self.signals.received())?;
        }
        Ok(())
    }

    /// Goes on with the others, once rank 0 has what it asks for.
    async fn heed<T>(&self, own: Result<Option<T>>) -> Result<Option<T>> {
        let give = async || {
            let made = match &self.frozen {
                None => self.trainer.checkpoint().await,
                Some(frozen) => self.trainer.checkpoint_of_trained(frozen).await,
            };
            // Where it could not be made, rank 0 heard of it with this one.
            drop(made);
        };
        self.ranks.heed(own, give).await
    }

    /// Reads the telemetry, which is that of all ranks: a run that gives up does so on each.
    async fn look(&mut self, log: &mut Log) -> Result<()> {
        if let Some(last) = self.trainer.telemetry().await?.last() {
            log.say(format_args!("step {}: loss {}", last.step + 1, last.loss));
        }
        Ok(())
    }
}
