//! Ranks of a cluster, by MPI.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mpi::topology::Communicator;
use mpi::{Count, Threading};

use super::Exchange;
use super::courier::{Answer, Courier, Order};
use super::exchange::Begun;
use super::rounds::{self, Bytes, Failure, Rounds, TIME_LIMIT};
use crate::error::{Error, Result};

/// This process's rank in a run that `mpirun` started.
///
/// ```no_run
/// use std::time::Duration;
///
/// use evenkeel::train::Trainer;
/// use evenkeel::train::ranks::{Exchange, Mpi};
///
/// # async fn train(model: impl evenkeel::train::Model, gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
/// let mpi = Mpi::world()?.time_limit(Duration::from_secs(120));
/// println!("rank {} of {}", mpi.rank(), mpi.size());
/// let trainer = Trainer::builder(model).exchange(mpi).build(gpu).await?;
/// # Ok(())
/// # }
/// ```
///
/// **Ranks that are gone.** A rank that does not come within the [`time_limit`](Self::time_limit) is
/// named to all others, with those that did not come either, and so is at once one that dropped its
/// `Mpi` while others go on. From then on every call on every rank fails with that error: a rank that
/// comes late after all takes no more steps. MPI is not ended then, since that would wait for the rank
/// that is missing: let the process end with an exit code, and the launcher ends the others
/// (OpenMPI's and MPICH's do; Slurm's with `--kill-on-bad-exit`). A rank that is killed or crashes is
/// found by the launcher before any limit, which ends all ranks and says which it was (MPICH's says
/// its process and its host). A rank that panics ends all of them (`MPI_Abort`, exit code 101).
///
/// Dropping it waits for the others to drop theirs, within the limit, and ends MPI.
pub struct Mpi {
    rank: usize,
    size: usize,
    time_limit: Duration,
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    /// Whether a call has told what ended the run.
    has_failed: Cell<bool>,
    /// Rounds that began.
    begun: Cell<u64>,
    /// Of a run with one rank, what it sends itself, by the number of the round.
    own: RefCell<HashMap<u64, Vec<Bytes>>>,
    thread: Option<JoinHandle<()>>,
}

/// It ends before its `Mpi` only by a panic, which has told what happened.
const RUNS: &str = "the thread that speaks with MPI runs";

impl Mpi {
    /// Starts MPI, with all processes of the run; one where no `mpirun` started it. To be called once.
    /// Ranks wait up to 10 minutes for each other.
    ///
    /// A thread of its own speaks with MPI, so that nothing else has to, wherever this rank is used.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where MPI was started before.
    pub fn world() -> Result<Self> {
        let (orders, for_courier) = channel();
        let (from_courier, answers) = channel();
        let (place, started) = channel();
        let run = move || {
            // All calls come from the thread that made the first one.
            let Some((_universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
                return;
            };
            let world = mpi::topology::SimpleCommunicator::world();
            place.send((world.rank(), world.size())).unwrap_or(());
            Courier::new(world, for_courier, from_courier).serve();
        };
        let thread = std::thread::Builder::new().name("mpi".into()).spawn(run);
        let thread = Some(thread.expect("a process may start a thread"));
        let (rank, size) = started.recv().map_err(|_| Error::Unsupported {
            what: "starting MPI a second time in a process".into(),
            instead: "call Mpi::world once; an Rc of it is an Exchange, too".into(),
        })?;
        let [rank, size] = [rank, size].map(|number| number as usize);
        let (has_failed, begun, own) = Default::default();
        let time_limit = TIME_LIMIT;
        Ok(Self { rank, size, time_limit, orders, answers, has_failed, begun, own, thread })
    }

    /// How long this rank waits for others in one call, and when it is dropped, before it ends with an
    /// error that names them. It has to be longer than anything that a rank does alone between two
    /// calls: compiling the kernels of a first step, a checkpoint, an evaluation. The same on all ranks.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    fn ask(&self, order: Order) -> Answer {
        self.order(order);
        self.answers.recv().expect(RUNS)
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect(RUNS);
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi(rank {} of {})", self.rank, self.size)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Does not return, unless the thread itself has panicked.
            if self.orders.send(Order::Abort(101)).is_ok() {
                self.answers.iter().for_each(drop);
            }
            return;
        }
        match self.ask(Order::Leave { limit: self.time_limit }) {
            Ok(_) => {
                // MPI is ended there.
                if let Some(thread) = self.thread.take() {
                    thread.join().unwrap_or(());
                }
            }
            // Nobody else can tell it, unless a call has.
            Err(failure) if !self.has_failed.get() && failure.rank != self.rank => {
                eprintln!("warning: {}", Error::from(failure));
            }
            Err(_) => {}
        }
    }
}

impl Rounds for Mpi {
    fn begin(&self, sent: Vec<Bytes>) -> Result<u64> {
        if sent.iter().any(|message| Count::try_from(message.len()).is_err()) {
            return Err(Error::Unsupported {
                what: "a message of 2 GiB or more over MPI".into(),
                instead: "exchange it in pieces".into(),
            });
        }
        let round = self.begun.replace(self.begun.get() + 1);
        if self.size == 1 {
            self.own.borrow_mut().insert(round, sent);
        } else {
            self.order(Order::Begin { round, sent });
        }
        Ok(round)
    }

    fn end(&self, round: u64) -> Result<Vec<Bytes>> {
        if self.size == 1 {
            let sent = self.own.borrow_mut().remove(&round);
            return Ok(sent.expect("a round that was begun, and ends once"));
        }
        let answer = self.ask(Order::End { round, limit: self.time_limit });
        self.has_failed.set(answer.is_err());
        Ok(answer?)
    }

    fn give_up(&self, failure: Failure) -> Error {
        self.has_failed.set(true);
        // The answer is that failure, or one before it.
        self.ask(Order::GiveUp(failure.clone())).err().unwrap_or(failure).into()
    }
}

impl Exchange for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        rounds::scatter(self, sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        rounds::share(self, bytes, parts)
    }

    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        rounds::begin_scatter(self, sent, parts)
    }

    fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        rounds::begin_share(self, bytes, parts)
    }

    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        rounds::end(self, begun)
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        rounds::gather(self, own)
    }
}
