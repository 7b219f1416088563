//! The ranks of a run, as one of them sees them, and what they tell each other. Rank 0 has the folder
//! of the run and speaks; the others follow.
//!
//! Whatever can go wrong on one rank alone ends with [`Ranks::agree`] or one of its kind, before
//! anything else is exchanged: so all leave the run at the same place, and come to
//! [`Ranks::settle`], which finds what was wrong first. It is told once, and all end with its exit
//! code. The one place where that cannot be is the middle of a step: see [`Ranks::step`].
//!
//! A process that was started by itself exchanges nothing.

mod device;
mod ending;
mod follower;
mod launcher;
pub mod learner;
mod log;
pub mod rounds;
mod share;
mod turn;

use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use evenkeel::run::{self, Ending, complain_as, exit_code, tune_products};
use evenkeel::train::ranks::Exchange;
use evenkeel::train::{Batch, Model, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use follower::Follower;
pub use launcher::Launched;
pub use log::{Log, process};
pub use share::Share;
use turn::Word;

/// Between two signs of life of a rank that works while others wait.
const SIGN: Duration = Duration::from_millis(50);

/// The ranks of a run; one where nobody else was started with it.
#[derive(Clone, Debug, Default)]
pub struct Ranks {
    exchange: Option<Rc<dyn Exchange>>,
    /// Number of this rank among those of this machine.
    local: usize,
}

impl Ranks {
    /// Does `run` with the others that `mpirun` started, if it did.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a build without MPI. Of several ranks, errors of the run are told
    /// here.
    pub async fn together(run: impl AsyncFnOnce(&Self) -> Result<Ending>) -> Result<Ending> {
        let ranks = Self::join()?;
        let ended = match ranks.check_alike() {
            Ok(()) => run(&ranks).await,
            Err(error) => Err(error),
        };
        ranks.settle(ended)
    }

    fn join() -> Result<Self> {
        let Some(launched) = Launched::find().filter(|one| one.has_others()) else {
            return Ok(Self::default());
        };
        let exchange = world()?;
        if let Some(size) = launched.size.filter(|size| *size != exchange.size()) {
            return Err(other_mpi(size, exchange.size()));
        }
        if exchange.rank() > 0 {
            complain_as(format!("rank {}", exchange.rank()));
        }
        Ok(Self { exchange: Some(exchange), local: launched.local })
    }

    /// Fails where a rank has another version or command line.
    fn check_alike(&self) -> Result<()> {
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        self.compare("version", env!("CARGO_PKG_VERSION"))?;
        self.compare("the command line", &format!("{arguments:?}"))
    }

    pub fn rank(&self) -> usize {
        self.exchange.as_ref().map_or(0, |exchange| exchange.rank())
    }

    pub fn size(&self) -> usize {
        self.exchange.as_ref().map_or(1, |exchange| exchange.size())
    }

    /// Whether this is rank 0, which has the folder of the run.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is more than one.
    pub fn are_several(&self) -> bool {
        self.size() > 1
    }

    /// Says of a run on one rank that there is nobody to share moments with.
    pub fn warn_of_no_shards(&self) {
        if !self.are_several() {
            run::warn(
                "--shard-optimizer does nothing on one rank; start several with mpirun to share the \
                 moments",
            );
        }
    }

    /// Builds the trainer of a rank, which takes steps with the others or `apart` from them.
    ///
    /// # Errors
    /// As [`TrainerBuilder::build`], on this rank or on another.
    pub async fn build<M: Model>(
        &self,
        builder: TrainerBuilder<M>,
        gpu: &Gpu,
        apart: bool,
    ) -> Result<Trainer<M>> {
        match apart {
            true => self.agree(builder.build(gpu).await),
            false => self.over(builder).build(gpu).await,
        }
    }

    /// The trainer of a rank, with the others.
    pub fn over<M: Model>(&self, builder: TrainerBuilder<M>) -> TrainerBuilder<M> {
        match &self.exchange {
            Some(exchange) => builder.exchange(exchange.clone()),
            None => builder,
        }
    }

    /// The device of this rank, [tuned](tune_products), and those of all in words, in the order of
    /// ranks.
    ///
    /// # Errors
    /// As [`Gpu::with`], and those of other ranks.
    pub async fn devices(&self, quiet: bool) -> Result<(Gpu, Vec<String>)> {
        let Some(exchange) = &self.exchange else {
            let gpu = crate::device::open().await?;
            tune_products(&gpu, quiet).await?;
            return Ok((gpu, Vec::new()));
        };
        let (gpu, name) = self.agree(device::of_rank(self.local).await)?;
        self.agree(tune_products(&gpu, true).await)?;
        let names = exchange.gather(name.as_bytes())?;
        Ok((gpu, names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()))
    }

    /// What this rank has, once all have theirs.
    ///
    /// # Errors
    /// That of this rank; else [`Error::Rank`] with the first other one's.
    pub fn agree<T>(&self, own: Result<T>) -> Result<T> {
        self.take_together(own.map(Some)).map(|own| own.expect("all ranks have theirs"))
    }

    /// What this rank has, if all have theirs: `None` where one of them has nothing.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn take_together<T>(&self, own: Result<Option<T>>) -> Result<Option<T>> {
        match self.words(&Word::of(&own)) {
            Some(all) => turn::joined(own, all),
            None => own,
        }
    }

    /// What rank 0 has, on all ranks; the others give nothing.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, own: Result<Option<T>>) -> Result<T> {
        let own = self.agree(own)?;
        if let (None, Some(_)) = (&self.exchange, &own) {
            return Ok(own.expect("of the only rank"));
        }
        let written = own.as_ref().map(serde_json::to_vec).transpose();
        let written = written.map_err(|error| Error::Data {
            what: "what ranks are told".to_owned(),
            reason: format!("{error}; give names in UTF-8"),
        });
        let bytes = self.broadcast_bytes(written.map(Option::unwrap_or_default))?;
        match own {
            Some(own) => Ok(own),
            None => understood(0, &bytes),
        }
    }

    /// The same of bytes.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn broadcast_bytes(&self, own: Result<Vec<u8>>) -> Result<Vec<u8>> {
        let own = self.agree(own)?;
        match &self.exchange {
            Some(exchange) => exchange.broadcast(&own),
            None => Ok(own),
        }
    }

    /// Does what may take long, while the others hear that this rank is there; what comes of it once
    /// all ranks are done with theirs.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn patiently<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(exchange) = &self.exchange else { return work() };
        std::thread::scope(|scope| {
            let work = scope.spawn(work);
            loop {
                let is_done = u8::from(work.is_finished());
                if exchange.gather(&[is_done])?.iter().all(|done| done == &[1]) {
                    break;
                }
                std::thread::sleep(SIGN);
            }
            self.agree(work.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }

    /// Takes a step with the others. Where the device is lost in the middle of it, they wait for what
    /// does not come, and nothing can be told to them: this process ends, which ends the run.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn step<M: Model>(&self, trainer: &mut Trainer<M>, batch: &Batch) -> Result<()> {
        match trainer.step(batch).await {
            Err(lost @ Error::DeviceLost { .. }) if self.are_several() => {
                let lost = ended_by_loss(lost);
                run::tell_error(&lost);
                std::process::exit(exit_code(&lost).into());
            }
            taken => taken,
        }
    }

    fn compare(&self, what: &str, own: &str) -> Result<()> {
        let Some(exchange) = &self.exchange else { return Ok(()) };
        let all: Vec<String> = self.gathered(exchange, &own)?;
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::Rank {
                rank,
                reason: format!(
                    "has {what} {}, rank 0 has {}; start all ranks alike",
                    all[rank], all[0]
                ),
            }),
        }
    }

    /// What all ranks tell, in their order.
    fn gathered<T: DeserializeOwned>(
        &self,
        exchange: &Rc<dyn Exchange>,
        own: &impl Serialize,
    ) -> Result<Vec<T>> {
        let all = exchange.gather(&serde_json::to_vec(own).expect("texts and numbers"))?;
        all.iter().enumerate().map(|(rank, bytes)| understood(rank, bytes)).collect()
    }
}

/// That a device was lost where no other one takes its place.
pub fn ended_by_loss(lost: Error) -> Error {
    match lost {
        Error::DeviceLost { reason } => Error::NotRegained {
            reason: format!(
                "{reason}; on several ranks that ends the run: go on from its last save with --resume"
            ),
        },
        other => other,
    }
}

/// That the launcher is not that of the MPI that this program was built with.
fn other_mpi(started: usize, found: usize) -> Error {
    Error::Unsupported {
        what: format!("a launcher that has started {started} ranks, of which MPI finds {found},"),
        instead:
            "start the program with the mpirun of the MPI that it was built with, or build it with \
                  that one: the environment variable MPICC names its compiler"
                .to_owned(),
    }
}

fn understood<T: DeserializeOwned>(rank: usize, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|_| Error::Rank {
        rank,
        reason: "tells what is not understood here; start all ranks with the same program".into(),
    })
}

/// How long ranks wait for one that does not come: longer than rank 0 takes to validate, save or
/// write a sample, which it does alone.
#[cfg(feature = "mpi")]
const TIME_LIMIT: std::time::Duration = std::time::Duration::from_secs(30 * 60);

/// All processes that were started with this one.
#[cfg(feature = "mpi")]
fn world() -> Result<Rc<dyn Exchange>> {
    Ok(Rc::new(evenkeel::train::ranks::Mpi::world()?.time_limit(TIME_LIMIT)))
}

#[cfg(not(feature = "mpi"))]
fn world() -> Result<Rc<dyn Exchange>> {
    Err(Error::Unsupported {
        what: "a run on several ranks in this build".to_owned(),
        instead: "build it with MPI: cargo install --path . --features cli,mpi".to_owned(),
    })
}
