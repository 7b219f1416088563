//! Ranks in one process.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::Exchange;
use crate::error::{Error, Result};

/// One of several ranks in one process, each in a thread of its own: for tests, and for a machine
/// with several devices.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    /// By rank.
    to: Vec<Sender<Vec<u8>>>,
    /// By rank.
    from: Vec<Receiver<Vec<u8>>>,
}

impl Local {
    /// So many ranks, in order.
    pub fn ranks(size: usize) -> Vec<Self> {
        let alone = |rank| Self { rank, to: Vec::new(), from: Vec::new() };
        let mut ranks: Vec<_> = (0..size).map(alone).collect();
        for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
            let (sender, receiver) = channel();
            ranks[from].to.push(sender);
            ranks[to].from.push(receiver);
        }
        ranks
    }

    fn send(&self, rank: usize, bytes: &[u8]) -> Result<()> {
        self.to[rank].send(bytes.to_vec()).map_err(|_| left(rank))
    }

    fn receive(&self, rank: usize, place: &mut [u8]) -> Result<()> {
        let bytes = self.from[rank].recv().map_err(|_| left(rank))?;
        if bytes.len() != place.len() {
            let (sent, expected) = (bytes.len(), place.len());
            let reason = format!(
                "sent {sent} bytes where rank {} expects {expected}: the ranks do not call the same \
                 methods in the same order",
                self.rank
            );
            return Err(Error::Rank { rank, reason });
        }
        place.copy_from_slice(&bytes);
        Ok(())
    }
}

fn left(rank: usize) -> Error {
    Error::Rank { rank, reason: "has left the run; look for what it told".into() }
}

impl Exchange for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        for (rank, part) in parts.iter().enumerate() {
            self.send(rank, &sent[part.clone()])?;
        }
        let length = parts[self.rank].len();
        for rank in 0..parts.len() {
            self.receive(rank, &mut received[rank * length..][..length])?;
        }
        Ok(())
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        for rank in 0..parts.len() {
            self.send(rank, &bytes[parts[self.rank].clone()])?;
        }
        for (rank, part) in parts.iter().enumerate() {
            self.receive(rank, &mut bytes[part.clone()])?;
        }
        Ok(())
    }
}
