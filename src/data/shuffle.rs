//! Orders that follow from a seed.

use crate::error::{Error, Result};
use crate::reference::random::threefry4x32;

/// Last key word of the random streams of shuffles.
const DOMAIN_SHUFFLE: u32 = 6;

/// The numbers below `count` in an order of their own for each seed, epoch and stream: Fisher and
/// Yates's shuffle.
pub(super) fn shuffled(count: usize, seed: u32, epoch: u64, stream: u32) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for place in (1..count).rev() {
        let counter = [place as u32, epoch as u32, (epoch >> 32) as u32, stream];
        let [high, low, ..] = threefry4x32(counter, [seed, 0, 0, DOMAIN_SHUFFLE]);
        let word = (u128::from(high) << 32) | u128::from(low);
        order.swap(place, ((word * (place as u128 + 1)) >> 64) as usize);
    }
    order
}

/// Stream of the orders of [`Shuffle`].
const STREAM: u32 = 2;

/// Numbers, each once in an epoch and in another order in each, without end: which records or
/// windows come next. What comes at a position follows from seed and position alone.
///
/// ```
/// use evenkeel::data::Shuffle;
///
/// let shuffle = Shuffle::new(4, 7)?;
/// let drawn: Vec<_> = shuffle.from(0).take(12).collect();
/// let resumed: Vec<_> = shuffle.from(6).take(6).collect();
/// assert_eq!(drawn[6..], resumed);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    count: usize,
    seed: u32,
}

impl Shuffle {
    /// The numbers below `count`.
    ///
    /// # Errors
    /// [`Error::Setting`] for none.
    pub fn new(count: usize, seed: u32) -> Result<Self> {
        if count > 0 {
            return Ok(Self { count, seed });
        }
        let (setting, value) = ("number of what is shuffled", count.to_string());
        Err(Error::Setting { setting, value, range: "at least 1" })
    }

    /// How many there are in an epoch.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The order of an epoch.
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        shuffled(self.count, self.seed, epoch, STREAM)
    }

    /// Epochs and numbers from a position on, which counts over all epochs. Takes 8 bytes of memory
    /// for each number, and time for the whole epoch when one begins.
    pub fn from(&self, position: u64) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (shuffle, count) = (*self, self.count as u64);
        (position / count..)
            .flat_map(move |epoch| shuffle.epoch(epoch).into_iter().map(move |one| (epoch, one)))
            .skip((position % count) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_orders_are_equally_frequent() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..6000 {
            *counts.entry(shuffled(3, 1, epoch, 0)).or_insert(0) += 1;
        }
        // Binomial: 1,000 expected, standard deviation 29.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_ne!(shuffled(50, 1, 0, 0), shuffled(50, 1, 0, 1));
        assert_ne!(shuffled(50, 1, 0, 0), shuffled(50, 1, 1 << 32, 0));
        assert_eq!(shuffled(1, 1, 0, 0), [0]);
        assert!(shuffled(0, 1, 0, 0).is_empty());
    }

    #[test]
    fn a_position_is_all_that_it_takes_to_go_on() {
        let shuffle = Shuffle::new(5, 3).expect("some");
        let all: Vec<_> = shuffle.from(0).take(23).collect();
        for position in 0..23 {
            let rest: Vec<_> = shuffle.from(position as u64).take(23 - position).collect();
            assert_eq!(rest, all[position..]);
        }
        for (epoch, part) in all.chunks_exact(5).enumerate() {
            let mut numbers: Vec<_> = part.iter().map(|one| one.1).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
            assert!(part.iter().all(|one| one.0 == epoch as u64));
        }
        assert_ne!(Shuffle::new(50, 3).unwrap().epoch(0), Shuffle::new(50, 4).unwrap().epoch(0));
        assert!(Shuffle::new(0, 3).is_err());
    }
}
