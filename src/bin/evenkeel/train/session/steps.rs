//! The steps themselves, as rank 0 takes them; each run by itself is one.

use evenkeel::Result;
use evenkeel::data::{LoaderStatistics, Prefetch};
use evenkeel::run::Signal;
use evenkeel::train::Batch;
use evenkeel::train::ranks::Round;

use super::{AHEAD, Session};
use crate::ranks::learner::Learner;
use crate::regain::Regain;
use crate::train::batch_of::batch_of;

impl Session<'_> {
    /// Submits step after step. The device is only waited for where telemetry is read and where the
    /// run is saved. Gives the signal that ended it before its last step, if one did.
    ///
    /// # Errors
    /// Those of a step. What cannot be written does not end the run.
    pub async fn train(
        &mut self,
        learner: &mut Learner,
        regain: &mut Regain,
    ) -> Result<Option<Signal>> {
        let ((ranks, _), steps) = (self.fixed.together, self.fixed.settings.steps as u64);
        let mut looked = Ok(());
        loop {
            let meets = learner.meets(steps);
            let next = looked.and_then(|()| self.next(learner, regain, meets));
            let batch = match next {
                Ok(Some(batch)) if !meets => batch,
                next => match ranks.take_together(next)? {
                    Some(batch) => batch,
                    None => break,
                },
            };
            looked = match self.step(learner, &batch).await {
                Ok(round) => self.after_step(learner, round).await,
                // The others hear of it where they meet next.
                Err(error) if learner.is_apart() => Err(error),
                Err(error) => return Err(error),
            };
        }
        match learner.trainer().steps() < steps {
            true => ranks.heard(self.fixed.signals.received()),
            false => Ok(None),
        }
    }

    async fn step(&mut self, learner: &mut Learner, batch: &Batch) -> Result<Option<Round>> {
        if let Some(profiled) = &mut self.profiled
            && profiled.are_next(learner.trainer())
        {
            let (tables, beside) = profiled.take(learner.trainer_mut(), batch).await?;
            tables.into_iter().for_each(|text| self.monitor.print(text));
            self.since += beside;
            return Ok(None);
        }
        learner.step(self.fixed.together.0, batch, self.fixed.settings.steps as u64).await
    }

    /// The batch of the next step, unless the run is to end here; a signal ends it only where others
    /// are met.
    fn next(
        &mut self,
        learner: &Learner,
        regain: &mut Regain,
        meets: bool,
    ) -> Result<Option<Batch>> {
        let trainer = learner.trainer();
        if !self.goes_on(trainer.steps(), meets) {
            return Ok(None);
        }
        let batch = self.batch(learner)?;
        regain.before_step(trainer.steps());
        if self.fixed.together.0.are_several() {
            // Between steps the others can be told.
            trainer.gpu().check()?;
        }
        Ok(Some(batch))
    }

    /// The batch of the next step, which a thread has made ahead: which one it is follows from seed
    /// and step.
    fn batch(&mut self, learner: &Learner) -> Result<Batch> {
        let position = learner.trainer().steps();
        if self.loader.as_ref().is_none_or(|loader| loader.position() != position) {
            let (ranks, share) = self.fixed.together;
            let own = share.sequences(ranks.rank());
            let all = self.fixed.settings.batch * self.fixed.settings.accumulation;
            let (training, seed) = (self.fixed.training.clone(), learner.seed());
            let source = move |step| batch_of(&training, seed, step, (&own, all));
            self.loader = Some(Prefetch::new(source, position, AHEAD)?);
            self.loaded = LoaderStatistics::default();
        }
        self.loader.as_mut().and_then(Iterator::next).expect("windows have no end")
    }

    fn goes_on(&mut self, done: u64, meets: bool) -> bool {
        let stop = self.monitor.is_stopped() || self.fixed.signals.received().is_some();
        done < self.fixed.settings.steps as u64 && !(stop && meets)
    }
}
