//! Ranks in one process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::Exchange;
use super::exchange::Begun;
use super::rounds::{self, Awaited, Bytes, Failure, LOOK, Rounds, TIME_LIMIT};
use crate::error::{Error, Result};

/// One of several ranks in one process, each in a thread of its own: for tests, and for a machine
/// with several devices.
///
/// A rank that is dropped while others go on (its thread ended, or panics) is named to them at once,
/// one that does not come when its [`time_limit`](Self::time_limit) is over. Behind the first error
/// all ranks are told the same one, ever after.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    time_limit: Duration,
    /// By rank.
    to: Vec<Sender<(usize, Letter)>>,
    inbox: Receiver<(usize, Letter)>,
    heard: RefCell<Heard>,
}

/// What one rank sends another.
#[derive(Debug)]
enum Letter {
    /// Of the round with this number.
    Part(u64, Bytes),
    Failed(Failure),
    Left,
}

/// What came from others, and what this rank has for itself.
#[derive(Debug)]
struct Heard {
    /// Rounds that began here.
    begun: u64,
    /// Messages of rounds that did not end, by rank and number: others may be ahead.
    parts: Vec<HashMap<u64, Bytes>>,
    /// By rank.
    has_left: Vec<bool>,
    /// What ended the run.
    failure: Option<Failure>,
}

impl Heard {
    /// Fails where another rank did, which has told all.
    fn note(&mut self, rank: usize, letter: Letter) -> Result<(), Failure> {
        match letter {
            Letter::Part(round, bytes) => drop(self.parts[rank].insert(round, bytes)),
            Letter::Left => self.has_left[rank] = true,
            Letter::Failed(failure) => return Err(failure),
        }
        Ok(())
    }
}

impl Local {
    /// So many ranks, in order. They wait up to 10 minutes for each other.
    pub fn ranks(size: usize) -> Vec<Self> {
        let (to, inboxes): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
        let rank = |(rank, inbox)| {
            let (parts, has_left) = (vec![HashMap::new(); size], vec![false; size]);
            let heard = RefCell::new(Heard { begun: 0, parts, has_left, failure: None });
            Self { rank, time_limit: TIME_LIMIT, to: to.clone(), inbox, heard }
        };
        inboxes.into_iter().enumerate().map(rank).collect()
    }

    /// How long this rank waits for others in one call before it ends with an error that names them. It
    /// has to be longer than anything that a rank does alone between two calls: compiling the kernels of
    /// a first step, a checkpoint, an evaluation.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    fn send(&self, rank: usize, letter: Letter) {
        // One that is gone has said so.
        self.to[rank].send((self.rank, letter)).unwrap_or(());
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.rank;
        (0..self.to.len()).filter(move |&rank| rank != own)
    }

    /// Waits until a message of every rank is here.
    fn hear_all(&self, heard: &mut Heard, round: u64) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            // All that has come, so that a rank that comes late hears that the run has ended.
            for (rank, letter) in self.inbox.try_iter() {
                heard.note(rank, letter)?;
            }
            let is_missing = |&rank: &usize| !heard.parts[rank].contains_key(&round);
            let missing: Vec<_> = self.others().filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if let Some(&gone) = missing.iter().find(|&&rank| heard.has_left[rank]) {
                return Err(self.told(Failure::left(gone)));
            }
            if waited >= self.time_limit {
                let (rank, limit) = (self.rank, self.time_limit);
                return Err(self.told(Failure::absent(missing, Awaited::Sends, rank, limit)));
            }
            let (start, look) = (Instant::now(), (self.time_limit - waited).min(LOOK));
            if let Ok((rank, letter)) = self.inbox.recv_timeout(look) {
                heard.note(rank, letter)?;
            }
            waited += start.elapsed().min(look);
        }
    }

    /// What others hear, too.
    fn told(&self, failure: Failure) -> Failure {
        self.others().for_each(|rank| self.send(rank, Letter::Failed(failure.clone())));
        failure
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.others().for_each(|rank| self.send(rank, Letter::Left));
    }
}

impl Rounds for Local {
    fn begin(&self, sent: Vec<Bytes>) -> Result<u64> {
        let mut heard = self.heard.borrow_mut();
        if let Some(failure) = &heard.failure {
            return Err(failure.clone().into());
        }
        let round = heard.begun;
        heard.begun += 1;
        for (rank, message) in sent.into_iter().enumerate() {
            if rank == self.rank {
                heard.parts[rank].insert(round, message);
            } else {
                self.send(rank, Letter::Part(round, message));
            }
        }
        Ok(round)
    }

    fn end(&self, round: u64) -> Result<Vec<Bytes>> {
        let mut heard = self.heard.borrow_mut();
        if let Some(failure) = &heard.failure {
            return Err(failure.clone().into());
        }
        if let Err(failure) = self.hear_all(&mut heard, round) {
            heard.failure = Some(failure.clone());
            return Err(failure.into());
        }
        let parts = heard.parts.iter_mut().map(|parts| parts.remove(&round));
        Ok(parts.map(|part| part.expect("a message of every rank")).collect())
    }

    fn give_up(&self, failure: Failure) -> Error {
        self.heard.borrow_mut().failure = Some(self.told(failure.clone()));
        failure.into()
    }
}

impl Exchange for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
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
