//! A run of `lora` or `train` that is taken up again at one of its saves: what both have in common.

use std::path::{Path, PathBuf};

use evenkeel::nn::LanguageModel;
use evenkeel::run::{Saved, warn};
use evenkeel::train::{Batch, Checkpoint, FrozenFingerprint, IGNORE, Trainer};
use evenkeel::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is in another place than when the run read it, or on another machine.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Moved {
    /// Where the data of the run are now, if they have been moved
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Where its model is now
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
}

/// A save in the folder of a run, not read yet.
pub struct Save<A> {
    pub path: PathBuf,
    /// Steps until then.
    pub steps: u64,
    pub about: A,
}

/// What the saves of a run say of one of its steps.
pub struct Around<A> {
    /// The newest save before the step.
    pub before: Option<Save<A>>,
    /// What the oldest save behind it says of the run: that is how it took the step.
    pub behind: Option<A>,
    /// What the newest save says.
    pub last: A,
}

impl<A: Serialize + DeserializeOwned + Clone> Around<A> {
    /// Looks at the last save of a run, and at others, in whatever order.
    ///
    /// # Errors
    /// [`Error::File`] where none of them can be used.
    pub fn find(folder: &Path, last: PathBuf, others: Vec<PathBuf>, step: u64) -> Result<Self> {
        let last = Save::<A>::peek(last);
        let mut saves: Vec<_> = others.into_iter().filter_map(Save::<A>::peek).collect();
        if let Some(last) = last {
            // What has come further is of an earlier run in this folder.
            saves.retain(|save| save.steps <= last.steps);
            saves.push(last);
        }
        saves.sort_by_key(|save| save.steps);
        let Some(last) = saves.last().map(|save| save.about.clone()) else {
            let reason = "there is no save of a run in this folder to take its steps again from; \
                          give the folder of a run, and let a run save more often with --save-every"
                .to_owned();
            return Err(Error::File { path: folder.to_owned(), reason });
        };
        let behind = saves.iter().find(|save| save.steps > step).map(|save| save.about.clone());
        let before = saves.into_iter().rfind(|save| save.steps <= step);
        Ok(Self { before, behind, last })
    }
}

impl<A: Serialize + DeserializeOwned> Save<A> {
    /// A save, if it is there and can be used.
    fn peek(path: PathBuf) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let found = Saved::<A>::peek(&path).map_err(|error| {
            warn(format!("{error}; it is passed over"));
        });
        found.ok().map(|(steps, about)| Self { path, steps, about })
    }

    /// Reads the tensors.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn read(&self) -> Result<Checkpoint> {
        let saved = Saved::<A>::open(&self.path)?.ok_or_else(|| Error::File {
            path: self.path.clone(),
            reason:
                "the save is no longer there: a run is at work in this folder; wait for its end"
                    .to_owned(),
        })?;
        Ok(saved.checkpoint)
    }
}

/// A trainer at the step from which steps are taken again.
pub struct Begun {
    pub trainer: Trainer<LanguageModel>,
    /// Where only a part is trained.
    frozen: Option<FrozenFingerprint>,
    start: Checkpoint,
    fault: Option<BitFlips>,
}

/// A fault as memory has it, for tests: before a step, each time that it is taken, another bit of a
/// weight is turned over.
#[derive(Clone, Copy, Debug)]
struct BitFlips {
    step: u64,
    count: u32,
}

impl Begun {
    /// Goes to a save, or stays at the beginning of the run, where the trainer is.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a save of another model.
    pub async fn at(
        trainer: Trainer<LanguageModel>,
        frozen: Option<FrozenFingerprint>,
        save: Option<Checkpoint>,
    ) -> Result<Self> {
        let is_beginning = save.is_none();
        let start = match (save, &frozen) {
            (Some(save), _) => save,
            (None, Some(frozen)) => trainer.checkpoint_of_trained(frozen).await?,
            (None, None) => trainer.checkpoint().await?,
        };
        let mut begun = Self { trainer, frozen, start, fault: None };
        if !is_beginning {
            begun.go_back().await?;
        }
        Ok(begun)
    }

    /// Goes back to where it began.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::DeviceLost`].
    pub async fn go_back(&mut self) -> Result<()> {
        restore(&mut self.trainer, self.frozen.as_ref(), &self.start).await
    }

    /// Goes to where another trainer of the same run is.
    ///
    /// # Errors
    /// As [`go_back`](Self::go_back).
    pub async fn go_to(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        restore(&mut self.trainer, self.frozen.as_ref(), checkpoint).await
    }

    /// Where it is.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        match &self.frozen {
            Some(frozen) => self.trainer.checkpoint_of_trained(frozen).await,
            None => self.trainer.checkpoint().await,
        }
    }

    /// Has a bit of a weight turned over before a step, each time another one.
    pub fn flip_bits_at(&mut self, step: Option<u64>) {
        self.fault = step.map(|step| BitFlips { step, count: 0 });
    }

    /// A step is to be taken, or looked into.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn before_step(&mut self) -> Result<()> {
        let steps = self.trainer.steps();
        let Some(fault) = self.fault.as_mut().filter(|fault| fault.step == steps) else {
            return Ok(());
        };
        let parameters = self.trainer.parameters();
        let name = parameters.trained()[0].name.clone();
        let mut weights = parameters.read(&name).await?;
        // Of the significand, the largest first.
        weights[0] = f32::from_bits(weights[0].to_bits() ^ (1 << (22 - fault.count % 8)));
        fault.count += 1;
        parameters.write(&name, &weights)
    }

    /// Steps until then.
    pub fn start(&self) -> u64 {
        self.start.steps()
    }
}

async fn restore(
    trainer: &mut Trainer<LanguageModel>,
    frozen: Option<&FrozenFingerprint>,
    checkpoint: &Checkpoint,
) -> Result<()> {
    match frozen {
        Some(frozen) => trainer.restore_trained(checkpoint, frozen).await,
        None => trainer.restore(checkpoint).await,
    }
}

/// That steps of a run with rounds cannot be taken again: there are no saves of all that its ranks had.
pub fn of_rounds() -> Error {
    Error::Unsupported {
        what: "taking steps again that ranks took by themselves (DiLoCo)".to_owned(),
        instead: "read what became of each round in metrics.jsonl and the logs of the ranks"
            .to_owned(),
    }
}

/// A row of a batch: a record, or a piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub file: String,
    /// Where it begins, counted from 1.
    pub line: usize,
    pub text: String,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Row {
    /// A batch of so many rows and positions, of which this one alone counts.
    pub fn alone(&self, rows: usize, length: usize) -> Batch {
        let (mut tokens, mut targets) = (self.tokens.clone(), self.targets.clone());
        tokens.resize(rows * length, 0);
        targets.resize(rows * length, IGNORE);
        Batch::new().with("tokens", tokens).with("targets", targets)
    }
}
