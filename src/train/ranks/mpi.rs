//! Ranks of a cluster, by MPI.

use std::fmt;
use std::ops::Range;

use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::{Count, Threading};

use super::Exchange;
use crate::error::{Error, Result};

/// This process's rank in a run that `mpirun` started.
///
/// ```no_run
/// use evenkeel::train::Trainer;
/// use evenkeel::train::ranks::{Exchange, Mpi};
///
/// # async fn train(model: impl evenkeel::train::Model, gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
/// let mpi = Mpi::world()?;
/// println!("rank {} of {}", mpi.rank(), mpi.size());
/// let trainer = Trainer::builder(model).exchange(mpi).build(gpu).await?;
/// # Ok(())
/// # }
/// ```
///
/// A rank that panics ends all of them (`MPI_Abort`), since the others would wait for it.
pub struct Mpi {
    world: SimpleCommunicator,
    /// Ends MPI when it is dropped.
    _universe: Universe,
}

impl Mpi {
    /// Starts MPI, with all processes of the run; one where no `mpirun` started it. To be called
    /// once, and used from the thread that called it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where MPI was started before.
    pub fn world() -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or_else(|| Error::Unsupported {
            what: "starting MPI a second time in a process".into(),
            instead: "call Mpi::world once; an Rc of it is an Exchange, too".into(),
        })?;
        Ok(Self { world: universe.world(), _universe: universe })
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi(rank {} of {})", self.rank(), self.size())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.world.abort(101);
        }
    }
}

/// Lengths and first bytes of parts, as MPI counts.
fn counts(parts: &[Range<usize>]) -> Result<[Vec<Count>; 2]> {
    let all =
        parts.iter().map(|part| Some([part.len().try_into().ok()?, part.start.try_into().ok()?]));
    let all: Option<Vec<[Count; 2]>> = all.collect();
    let Some(all) = all.filter(|_| parts.iter().all(|part| Count::try_from(part.end).is_ok()))
    else {
        return Err(Error::Unsupported {
            what: "an exchange of 2 GiB or more at once over MPI".into(),
            instead: "exchange it in pieces".into(),
        });
    };
    Ok([0, 1].map(|i| all.iter().map(|pair| pair[i]).collect()))
}

impl Exchange for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        // The same on all ranks.
        if sent.is_empty() {
            return Ok(());
        }
        let [lengths, starts] = counts(parts)?;
        let own = parts[self.rank()].len();
        let places: Vec<_> = (0..parts.len()).map(|rank| rank * own..(rank + 1) * own).collect();
        let [places, place_starts] = counts(&places)?;
        let mut nothing = [0];
        let received = if received.is_empty() { &mut nothing[..0] } else { received };
        let sent = Partition::new(sent, lengths, starts);
        let mut received = PartitionMut::new(received, places, place_starts);
        self.world.all_to_all_varcount_into(&sent, &mut received);
        Ok(())
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        // The same on all ranks.
        if bytes.is_empty() {
            return Ok(());
        }
        let [lengths, starts] = counts(parts)?;
        // One byte more, so that a part without bytes has an address, too: that of an empty slice may
        // be one that MPI takes for a word of its own (`MPI_IN_PLACE`).
        let part = &bytes[parts[self.rank()].clone()];
        let own = [part, &[0]].concat();
        let mut all = PartitionMut::new(bytes, lengths, starts);
        self.world.all_gather_varcount_into(&own[..own.len() - 1], &mut all);
        Ok(())
    }
}
