//! How a rank learns: each step with all others, or by itself between the rounds of DiLoCo.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use evenkeel::nn::LanguageModel;
use evenkeel::run::warn;
use evenkeel::train::ranks::{
    DiLoCo, DiLoCoCheckpoint, DiLoCoSettings, Exchange, Local, Resumed, Round,
};
use evenkeel::train::{Batch, Checkpoint, FrozenFingerprint, Trainer};
use evenkeel::{Result, file};

use super::Ranks;

/// The trainer of a rank, and what it has to do with others.
#[allow(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Learner {
    /// Takes each step with all ranks.
    Together(Box<Trainer<LanguageModel>>),
    /// Meets the others once in some steps.
    Apart(Apart),
}

pub struct Apart {
    diloco: Box<DiLoCo<LanguageModel>>,
    /// What this rank alone has, at its last save and at the one before.
    files: [PathBuf; 2],
}

/// The state of a run at one step.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and what it points to is larger"
)]
pub enum State {
    Together(Box<Checkpoint>),
    Apart(Box<DiLoCoCheckpoint>),
}

impl State {
    /// That of the trainer.
    pub fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Together(checkpoint) => checkpoint,
            Self::Apart(checkpoint) => checkpoint.trainer(),
        }
    }
}

impl Learner {
    /// Goes on with a trainer that has come to the same step on all ranks. Of a run with DiLoCo that
    /// was saved at it, each rank takes what it alone had, in this folder.
    ///
    /// # Errors
    /// As [`DiLoCo::new`] and [`DiLoCo::restore`].
    pub async fn begin(
        trainer: Trainer<LanguageModel>,
        settings: Option<DiLoCoSettings>,
        ranks: &Ranks,
        folder: &Path,
    ) -> Result<Self> {
        let files = files(folder, ranks.rank());
        let step = trainer.steps();
        if step == 0 {
            // Those of an earlier run.
            files.iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
        let Some(settings) = settings else { return Ok(Self::Together(Box::new(trainer))) };
        let exchange: Rc<dyn Exchange> = match &ranks.exchange {
            Some(exchange) => exchange.clone(),
            None => Rc::new(Local::ranks(1).remove(0)),
        };
        let mut diloco = DiLoCo::new(Ok(trainer), exchange, settings).await?;
        if step == 0 {
            // Nothing is saved of it yet.
        } else if let Some(saved) = ranks.saved_at(step, &files)? {
            let resumed = diloco.restore(&saved).await?;
            ranks.say_resumed(&resumed);
        } else if ranks.is_first() {
            warn(format!(
                "there is no save of DiLoCo at step {step}: its outer optimizer begins anew"
            ));
        }
        Ok(Self::Apart(Apart { diloco: Box::new(diloco), files }))
    }

    pub fn trainer(&self) -> &Trainer<LanguageModel> {
        match self {
            Self::Together(trainer) => trainer,
            Self::Apart(apart) => apart.diloco.trainer(),
        }
    }

    /// For telemetry, evaluations and the like.
    pub fn trainer_mut(&mut self) -> &mut Trainer<LanguageModel> {
        match self {
            Self::Together(trainer) => trainer,
            Self::Apart(apart) => apart.diloco.trainer_mut(),
        }
    }

    /// That of the run, by which all ranks draw batches.
    pub fn seed(&self) -> u32 {
        match self {
            Self::Together(trainer) => trainer.seed(),
            Self::Apart(apart) => apart.diloco.seed(),
        }
    }

    /// Whether ranks take steps by themselves.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// Whether others are met in the next step, of a run with so many: then all take it or none does.
    pub fn meets(&self, steps: u64) -> bool {
        match self {
            Self::Together(_) => true,
            Self::Apart(Apart { diloco, .. }) => {
                let is_alone = diloco.exchange().size() == 1;
                let ends_round = diloco.steps_in_round() + 1 >= diloco.settings().inner_steps;
                is_alone || ends_round || diloco.trainer().steps() + 1 >= steps
            }
        }
    }

    /// Takes a step; gives the round that it ended. The last step of a run ends one in any case.
    ///
    /// # Errors
    /// As [`Ranks::step`] and [`DiLoCo::step`].
    pub async fn step(
        &mut self,
        ranks: &Ranks,
        batch: &Batch,
        steps: u64,
    ) -> Result<Option<Round>> {
        match self {
            Self::Together(trainer) => ranks.step(trainer, batch).await.map(|()| None),
            Self::Apart(Apart { diloco, .. }) => match diloco.step(batch).await? {
                None if diloco.trainer().steps() == steps => diloco.round().await.map(Some),
                round => Ok(round),
            },
        }
    }

    /// What it takes to go on from here; without what has this fingerprint. With ranks that have moments
    /// in parts all do it at once.
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`].
    pub async fn state(&self, frozen: Option<&FrozenFingerprint>) -> Result<State> {
        match self {
            Self::Together(trainer) => {
                let checkpoint = match frozen {
                    None => trainer.checkpoint().await?,
                    Some(frozen) => trainer.checkpoint_of_trained(frozen).await?,
                };
                Ok(State::Together(Box::new(checkpoint)))
            }
            Self::Apart(apart) => Ok(State::Apart(Box::new(apart.diloco.checkpoint().await?))),
        }
    }

    /// Writes what this rank alone has of a state, in front of what rank 0 writes of it.
    ///
    /// # Errors
    /// [`Error::File`](evenkeel::Error); the earlier ones are as they were.
    pub fn write_own(&self, state: &State) -> Result<()> {
        match (self, state) {
            (Self::Apart(Apart { files: [last, previous], .. }), State::Apart(own)) => {
                file::replace_and_keep(last, &own.to_bytes(), previous)
            }
            _ => Ok(()),
        }
    }
}

fn files(folder: &Path, rank: usize) -> [PathBuf; 2] {
    ["", ".previous"].map(|which| folder.join(format!("diloco.rank-{rank}{which}.safetensors")))
}

/// What a rank has saved at a step; what cannot be read is not there.
fn read(files: &[PathBuf; 2], step: u64) -> Option<DiLoCoCheckpoint> {
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).ok()?;
        match DiLoCoCheckpoint::from_bytes(&bytes) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                warn(format!("{}: {error}", path.display()));
                None
            }
        }
    };
    let [last, previous] = files;
    let is_it = |checkpoint: &DiLoCoCheckpoint| checkpoint.trainer().steps() == step;
    if let Some(found) = read(last).filter(is_it) {
        return Some(found);
    }
    let found = read(previous).filter(is_it)?;
    // The last one is of a part of the run that is gone: the next save keeps this one.
    if let Err(error) = std::fs::rename(previous, last) {
        warn(format!("{}: {error}", previous.display()));
    }
    Some(found)
}

impl Ranks {
    /// What this rank has saved at a step, or where it has nothing what rank 0 has. `None` where rank
    /// 0 has nothing either.
    fn saved_at(&self, step: u64, files: &[PathBuf; 2]) -> Result<Option<DiLoCoCheckpoint>> {
        let own = read(files, step);
        let Some(exchange) = &self.exchange else { return Ok(own) };
        let have = self.gathered::<bool>(exchange, &own.is_some())?;
        if !have[0] {
            return Ok(None);
        }
        if have.iter().all(|has| *has) {
            return Ok(own);
        }
        let first = own.as_ref().filter(|_| self.is_first());
        let first = first.map_or_else(Vec::new, DiLoCoCheckpoint::to_bytes);
        let first = exchange.broadcast(&first)?;
        let own = own.map_or_else(|| DiLoCoCheckpoint::from_bytes(&first), Ok);
        self.agree(own).map(Some)
    }

    /// Says what was lost between two parts of a run.
    fn say_resumed(&self, resumed: &Resumed) {
        let Resumed { ranks, dropped, .. } = resumed;
        if self.is_first() && !dropped.is_empty() {
            warn(format!(
                "the run had {ranks} ranks: moments of {} are gone, and what they had learned since \
                 the last round",
                numbers(dropped)
            ));
        }
    }
}

/// Ranks in words.
fn numbers(ranks: &[usize]) -> String {
    let numbers: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    let what = if numbers.len() == 1 { "rank" } else { "ranks" };
    format!("{what} {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_a_rank() {
        let [last, previous] = files(Path::new("run"), 1);
        assert_eq!(last, Path::new("run/diloco.rank-1.safetensors"));
        assert_eq!(previous, Path::new("run/diloco.rank-1.previous.safetensors"));
        assert_eq!([numbers(&[2]), numbers(&[2, 3])], ["rank 2", "ranks 2, 3"]);
    }
}
