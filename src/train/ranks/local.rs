//! Ranks in one process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::Exchange;
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
    Part(Bytes),
    Failed(Failure),
    Left,
}

/// What came from others.
#[derive(Debug)]
struct Heard {
    /// Messages that wait for their round, by rank: others may be a round ahead.
    parts: Vec<VecDeque<Bytes>>,
    /// By rank.
    has_left: Vec<bool>,
    /// What ended the run.
    failure: Option<Failure>,
}

impl Heard {
    /// Fails where another rank did, which has told all.
    fn note(&mut self, rank: usize, letter: Letter) -> Result<(), Failure> {
        match letter {
            Letter::Part(bytes) => self.parts[rank].push_back(bytes),
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
            let parts = vec![VecDeque::new(); size];
            let heard = RefCell::new(Heard { parts, has_left: vec![false; size], failure: None });
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
    fn hear_all(&self, heard: &mut Heard) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            // All that has come, so that a rank that comes late hears that the run has ended.
            for (rank, letter) in self.inbox.try_iter() {
                heard.note(rank, letter)?;
            }
            let missing: Vec<_> = self.others().filter(|&r| heard.parts[r].is_empty()).collect();
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
    fn round(&self, mut sent: Vec<Bytes>) -> Result<Vec<Bytes>> {
        let mut heard = self.heard.borrow_mut();
        if let Some(failure) = &heard.failure {
            return Err(failure.clone().into());
        }
        for rank in self.others() {
            self.send(rank, Letter::Part(std::mem::take(&mut sent[rank])));
        }
        if let Err(failure) = self.hear_all(&mut heard) {
            heard.failure = Some(failure.clone());
            return Err(failure.into());
        }
        for rank in self.others() {
            sent[rank] = heard.parts[rank].pop_front().expect("a message of every rank");
        }
        Ok(sent)
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

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        rounds::gather(self, own)
    }
}
