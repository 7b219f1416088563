//! Rounds of messages, one from each rank to each: what exchanges here are made of, and how those are
//! named that were missing in one.
//!
//! Rounds have numbers, from 0 on in the order in which they begin, which is the same on all ranks. So
//! several may be on their way, and each message is known by its number, whichever comes first.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Exchange;
use super::exchange::Begun;
use crate::error::{Error, Result};

/// How long ranks wait for each other where nothing else is said: longer than it takes slow devices to
/// compile the kernels of a model, and rank 0 to write a checkpoint of some 100 GB.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(600);

/// Time between two looks that counts as waited: a process that was stopped in between, with the whole
/// job maybe, has waited for nobody.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A message; many ranks may get the same one.
pub(super) type Bytes = Arc<Vec<u8>>;

/// An exchange by messages.
pub(super) trait Rounds: Exchange {
    /// Sends each rank its message, and returns the number of the round.
    ///
    /// # Errors
    /// What ended the run, once that is known.
    fn begin(&self, sent: Vec<Bytes>) -> Result<u64>;

    /// What each rank sent to this one in a round that was begun, in the order of ranks; once.
    ///
    /// # Errors
    /// Names the rank that left, or the first of those that did not come in time; then and ever after.
    fn end(&self, round: u64) -> Result<Vec<Bytes>>;

    /// Gives each rank its message, and gets what each sent to this one.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    fn round(&self, sent: Vec<Bytes>) -> Result<Vec<Bytes>> {
        let round = self.begin(sent)?;
        Rounds::end(self, round)
    }

    /// Ends the run for all ranks.
    fn give_up(&self, failure: Failure) -> Error;
}

/// What ended a run on several ranks: [`Error::Rank`], as it is kept and told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub rank: usize,
    pub reason: String,
}

impl From<Failure> for Error {
    fn from(Failure { rank, reason }: Failure) -> Self {
        Self::Rank { rank, reason }
    }
}

/// What a rank was waited for to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// That it sends something.
    Sends,
    /// That it takes what was sent to it.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "threads take all at once"))]
    Takes,
    /// That it ends its part of the run, too.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "threads need not"))]
    Leaves,
}

impl Failure {
    /// Ranks that `waiting` waited for in vain; one at least.
    pub fn absent(
        mut absent: Vec<usize>,
        awaited: Awaited,
        waiting: usize,
        limit: Duration,
    ) -> Self {
        absent.sort_unstable();
        let (&rank, others) = absent.split_first().expect("a rank that did not come");
        let did = match awaited {
            Awaited::Sends => format!("did not send to rank {waiting}"),
            Awaited::Takes => format!("did not take what rank {waiting} sent"),
            Awaited::Leaves => format!("did not end together with rank {waiting}"),
        };
        let others: Vec<_> = others.iter().map(usize::to_string).collect();
        let others = match &others[..] {
            [] => String::new(),
            [one] => format!(", nor did rank {one}"),
            [many @ .., last] => format!(", nor did ranks {} and {last}", many.join(", ")),
        };
        let reason = format!(
            "{did} within {} s{others}: it died, hangs or takes longer than that; look at what it \
             told, and go on from the last checkpoint, on fewer ranks if need be, or with a longer \
             time limit",
            limit.as_secs_f64()
        );
        Self { rank, reason }
    }

    /// A rank that ended while others go on.
    pub fn left(rank: usize) -> Self {
        Self { rank, reason: "has left the run; look for what it told".into() }
    }

    /// As it is sent.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "threads send it as it is"))]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&(self.rank as u64).to_le_bytes()[..], self.reason.as_bytes()].concat()
    }

    /// What was sent.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "threads send it as it is"))]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (rank, reason) = bytes.split_first_chunk().unwrap_or((&[0; 8], bytes));
        let rank = u64::from_le_bytes(*rank) as usize;
        Self { rank, reason: String::from_utf8_lossy(reason).into_owned() }
    }
}

/// [`Exchange::begin_scatter`].
pub(super) fn begin_scatter(
    rounds: &impl Rounds,
    sent: &[u8],
    parts: &[Range<usize>],
) -> Result<Begun> {
    let round = rounds.begin(scattered(rounds, sent, parts))?;
    let own = parts[rounds.rank()].clone();
    let places = places(own.len(), parts.len());
    let mut bytes = vec![0; own.len() * parts.len()];
    bytes[places[rounds.rank()].clone()].copy_from_slice(&sent[own]);
    Ok(Begun { bytes, places, round: Some(round) })
}

/// [`Exchange::begin_share`].
pub(super) fn begin_share(
    rounds: &impl Rounds,
    bytes: Vec<u8>,
    parts: &[Range<usize>],
) -> Result<Begun> {
    let round = rounds.begin(shared(rounds, &bytes, parts))?;
    Ok(Begun { bytes, places: parts.to_vec(), round: Some(round) })
}

/// [`Exchange::end`].
pub(super) fn end(rounds: &impl Rounds, begun: Begun) -> Result<Vec<u8>> {
    let Begun { mut bytes, places, round } = begun;
    if let Some(round) = round {
        put(rounds, &Rounds::end(rounds, round)?, &mut bytes, &places)?;
    }
    Ok(bytes)
}

/// [`Exchange::scatter`].
pub(super) fn scatter(
    rounds: &impl Rounds,
    sent: &[u8],
    parts: &[Range<usize>],
    received: &mut [u8],
) -> Result<()> {
    let own = parts[rounds.rank()].clone();
    let places = places(own.len(), parts.len());
    let came = rounds.round(scattered(rounds, sent, parts))?;
    received[places[rounds.rank()].clone()].copy_from_slice(&sent[own]);
    put(rounds, &came, received, &places)
}

/// Each rank gets its part. What this rank has for itself needs no message.
fn scattered(rounds: &impl Rounds, sent: &[u8], parts: &[Range<usize>]) -> Vec<Bytes> {
    let message = |(rank, part): (usize, &Range<usize>)| {
        Bytes::new(if rank == rounds.rank() { Vec::new() } else { sent[part.clone()].to_vec() })
    };
    parts.iter().enumerate().map(message).collect()
}

/// Parts of one length, one for each rank.
fn places(length: usize, ranks: usize) -> Vec<Range<usize>> {
    (0..ranks).map(|rank| rank * length..(rank + 1) * length).collect()
}

/// [`Exchange::share`].
pub(super) fn share(rounds: &impl Rounds, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
    let came = rounds.round(shared(rounds, bytes, parts))?;
    put(rounds, &came, bytes, parts)
}

/// All ranks get the same message.
fn shared(rounds: &impl Rounds, bytes: &[u8], parts: &[Range<usize>]) -> Vec<Bytes> {
    vec![Bytes::new(bytes[parts[rounds.rank()].clone()].to_vec()); parts.len()]
}

/// [`Exchange::gather`]: a message tells its length by itself.
pub(super) fn gather(rounds: &impl Rounds, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let came = rounds.round(vec![Bytes::new(own.to_vec()); rounds.size()])?;
    Ok(came.into_iter().map(Arc::unwrap_or_clone).collect())
}

/// Puts what other ranks sent into their places.
fn put(
    rounds: &impl Rounds,
    came: &[Bytes],
    bytes: &mut [u8],
    places: &[Range<usize>],
) -> Result<()> {
    let own = rounds.rank();
    for (rank, (sent, place)) in came.iter().zip(places).enumerate() {
        if rank == own {
            continue;
        }
        if sent.len() != place.len() {
            let reason = format!(
                "sent {} bytes where rank {own} expects {}: the ranks do not call the same methods \
                 in the same order",
                sent.len(),
                place.len()
            );
            return Err(rounds.give_up(Failure { rank, reason }));
        }
        bytes[place.clone()].copy_from_slice(sent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_did_not_come_are_named() {
        let told = |absent: &[usize]| {
            let limit = Duration::from_millis(1500);
            Error::from(Failure::absent(absent.to_vec(), Awaited::Sends, 1, limit)).to_string()
        };
        for (absent, head) in [
            (&[2][..], "rank 2 did not send to rank 1 within 1.5 s: it died, "),
            (&[3, 0], "rank 0 did not send to rank 1 within 1.5 s, nor did rank 3: it died, "),
            (
                &[0, 3, 4, 7],
                "rank 0 did not send to rank 1 within 1.5 s, nor did ranks 3, 4 and 7: ",
            ),
        ] {
            assert!(told(absent).starts_with(head), "{}", told(absent));
        }
    }

    #[test]
    #[cfg(feature = "mpi")]
    fn what_others_are_told_is_what_was_found() {
        for awaited in [Awaited::Takes, Awaited::Leaves] {
            let failure = Failure::absent(vec![3], awaited, 70_000, TIME_LIMIT);
            assert_eq!(Failure::from_bytes(&failure.to_bytes()), failure);
        }
        assert_eq!(Failure::from_bytes(b"?"), Failure { rank: 0, reason: "?".into() });
    }
}
