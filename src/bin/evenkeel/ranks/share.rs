//! The part of a step that each of several ranks takes. The settings of a run say the whole of it.

use std::ops::Range;

use evenkeel::train::Batch;
use evenkeel::{Error, Result};

/// The microbatches of a rank, and the sequences in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub batch: usize,
    pub accumulation: usize,
}

impl Share {
    /// The microbatches of a step go to the ranks in their order, as many to each. Where there are
    /// more ranks than that gives each one, microbatches are cut as well. Both sizes come with the
    /// options that set them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the nearest values, where no equal parts are to be had.
    pub fn of(
        (batch_option, batch): (&str, usize),
        (option, accumulation): (&str, usize),
        ranks: usize,
    ) -> Result<Self> {
        cut(batch, accumulation, ranks).ok_or_else(|| {
            let by_accumulation = nearest(accumulation, |n| cut(batch, n, ranks).is_some());
            let by_batch = nearest(batch, |n| cut(n, accumulation, ranks).is_some());
            let fewer = (1..ranks).rev().find(|n| cut(batch, accumulation, *n).is_some());
            Error::Unsupported {
                what: format!(
                    "a step of {option} {accumulation} times {batch_option} {batch} sequences on \
                     {ranks} ranks"
                ),
                instead: format!(
                    "it has no {ranks} equal parts; give {option} {by_accumulation} or \
                     {batch_option} {by_batch}, or start {} ranks",
                    fewer.unwrap_or(1)
                ),
            }
        })
    }

    /// Whether microbatches themselves were cut.
    pub fn cuts_microbatches(&self, batch: usize) -> bool {
        self.batch < batch
    }

    /// A batch that is measured in pieces that fit a microbatch of a rank.
    ///
    /// # Errors
    /// As [`Batch::of_rank`].
    pub fn pieces(&self, batch: &Batch, rows: usize) -> Result<Vec<Batch>> {
        let pieces = rows / self.batch;
        (0..pieces).map(|piece| batch.of_rank(piece, pieces)).collect()
    }

    /// The sequences of a rank among those of a step.
    pub fn sequences(&self, rank: usize) -> Range<usize> {
        let count = self.batch * self.accumulation;
        rank * count..(rank + 1) * count
    }
}

fn cut(batch: usize, accumulation: usize, ranks: usize) -> Option<Share> {
    let by_microbatch = greatest_divisor(accumulation, ranks);
    let pieces = ranks / by_microbatch;
    batch
        .is_multiple_of(pieces)
        .then(|| Share { batch: batch / pieces, accumulation: accumulation / by_microbatch })
}

/// The greatest that divides both (Euclid).
fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// The nearest number that will do, of two that are as near the larger one.
fn nearest(to: usize, will_do: impl Fn(usize) -> bool) -> usize {
    let both = |distance: usize| [Some(to + distance), to.checked_sub(distance)];
    let found = (1..).flat_map(both).flatten().find(|&n| n > 0 && will_do(n));
    found.expect("a multiple of the ranks will do")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(batch: usize, accumulation: usize, ranks: usize) -> Result<Share> {
        Share::of(("--batch", batch), ("--accumulation", accumulation), ranks)
    }

    fn of(batch: usize, accumulation: usize, ranks: usize) -> Option<(usize, usize)> {
        share(batch, accumulation, ranks).ok().map(|share| (share.batch, share.accumulation))
    }

    #[test]
    fn microbatches_are_dealt_before_they_are_cut() {
        assert_eq!(of(8, 4, 1), Some((8, 4)));
        assert_eq!(of(8, 4, 4), Some((8, 1)));
        assert_eq!(of(8, 4, 2), Some((8, 2)));
        assert_eq!(of(8, 1, 4), Some((2, 1)));
        assert_eq!(of(8, 6, 4), Some((4, 3)));
        assert_eq!(of(3, 2, 4), None);
        assert_eq!(of(1, 3, 2), None);
        let share = Share { batch: 4, accumulation: 3 };
        assert_eq!((share.sequences(0), share.sequences(2)), (0..12, 24..36));
        assert!(share.cuts_microbatches(8) && !share.cuts_microbatches(4));
    }

    #[test]
    fn what_has_no_equal_parts_is_refused_with_what_has() {
        let error = share(3, 2, 4).expect_err("no equal parts").to_string();
        let parts =
            ["--accumulation 2 times --batch 3", "--accumulation 4", "--batch 4", "3 ranks"];
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
        for (batch, accumulation) in [(3, 4), (4, 2), (3, 2)] {
            let ranks = if (batch, accumulation) == (3, 2) { 3 } else { 4 };
            assert!(of(batch, accumulation, ranks).is_some(), "{batch} {accumulation} {ranks}");
        }
    }
}
