//! Examples of all lengths as batches: sorted by length, padded, in another order in each epoch.

use super::shuffle::shuffled;
use crate::error::{Error, Result};
use crate::train::{Batch, IGNORE, Lengths};

/// A sequence to learn from, of ids and of what is to be predicted at each of them:
/// [`IGNORE`] where that does not count. Any length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Ids.
    pub tokens: Vec<u32>,
    /// As many targets.
    pub targets: Vec<u32>,
}

#[cfg(feature = "text")]
impl From<&crate::text::Sample> for Sequence {
    fn from(sample: &crate::text::Sample) -> Self {
        Self { tokens: sample.inputs().to_vec(), targets: sample.targets() }
    }
}

/// How many positions of batches are padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Positions that hold tokens.
    pub tokens: usize,
    /// Positions that are there to fill up.
    pub padding: usize,
}

impl Padding {
    /// The share of padding in all positions; 0 where there are none.
    pub fn share(&self) -> f64 {
        self.padding as f64 / (self.tokens + self.padding).max(1) as f64
    }
}

/// Checks what batches are made of.
pub(super) fn check(sequences: &[Sequence], longest: usize) -> Result<()> {
    let wrong =
        |reason: String| Err(Error::Data { what: "sequences to learn from".into(), reason });
    if sequences.is_empty() {
        return wrong("there are none; give some".into());
    }
    for (index, Sequence { tokens, targets }) in sequences.iter().enumerate() {
        let (length, targets) = (tokens.len(), targets.len());
        if length == 0 {
            return wrong(format!("number {index} is empty; leave it out"));
        }
        if length != targets {
            return wrong(format!("number {index} has {length} tokens, but {targets} targets"));
        }
        if length > longest {
            return wrong(format!(
                "number {index} has {length} tokens, more than the longest length, which is \
                 {longest}; cut it (Supervision::context does), or take a longer length"
            ));
        }
    }
    Ok(())
}

/// Batches of one sequence a row, each padded to the shortest of some lengths that holds its longest.
///
/// An epoch takes each sequence once, in an order that follows from seed and epoch. A stretch of some
/// batches of that order is sorted by length, cut into batches, and the batches are shuffled: so
/// batches have little padding, are of neighbours in length, and come in no order of length. Where
/// sequences do not fill the last batch of an epoch, rows without targets do, which count for nothing.
///
/// Batch `index` of a seed is always the same, so a run goes on where it was by the number of its
/// steps.
///
/// ```
/// use evenkeel::data::{PaddedBatches, Sequence};
/// use evenkeel::train::Lengths;
///
/// let sequence = |length: u32| Sequence {
///     tokens: (0..length).collect(),
///     targets: (1..=length).collect(),
/// };
/// let sequences = [3, 9, 4, 16, 5, 2].map(sequence);
/// let batches = PaddedBatches::new(sequences, Lengths::new([4, 8, 16])?, 2)?;
/// assert_eq!(batches.per_epoch(), 3);
/// // (2, 3), (4, 5) and (9, 16), in some order.
/// let mut lengths = [0, 1, 2].map(|index| batches.batch(7, index).length());
/// lengths.sort();
/// assert_eq!(lengths, [Some(4), Some(8), Some(16)]);
/// assert_eq!(batches.padding(7, 0).share(), 17.0 / 56.0);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaddedBatches {
    sequences: Vec<Sequence>,
    lengths: Lengths,
    rows: usize,
    stretch: usize,
    pad: u32,
}

impl PaddedBatches {
    /// Batches of `rows` sequences: those of a microbatch, or of all microbatches of a step, one
    /// after the other.
    ///
    /// # Errors
    /// [`Error::Data`] where there are no sequences, and for one that is empty, longer than the
    /// longest length, or has not as many targets as tokens; [`Error::Setting`] for no rows.
    pub fn new(
        sequences: impl IntoIterator<Item = Sequence>,
        lengths: Lengths,
        rows: usize,
    ) -> Result<Self> {
        let sequences: Vec<_> = sequences.into_iter().collect();
        check(&sequences, lengths.longest())?;
        check_rows(rows)?;
        Ok(Self { sequences, lengths, rows, stretch: STRETCH, pad: 0 })
    }

    /// Sorts stretches of so many batches by length; 64 by default. More have less padding, 1 draws
    /// every batch from all lengths.
    #[must_use]
    pub fn sorted_within(self, batches: usize) -> Self {
        Self { stretch: batches.max(1), ..self }
    }

    /// The token that stands in padding, 0 by default. It changes neither loss nor gradients.
    #[must_use]
    pub fn padded_with(self, token: u32) -> Self {
        Self { pad: token, ..self }
    }

    /// The sequences, in the order in which they were given.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Batches in which each sequence is once.
    pub fn per_epoch(&self) -> usize {
        self.sequences.len().div_ceil(self.rows)
    }

    /// The sequences of each batch of an epoch, by their index.
    pub fn epoch(&self, seed: u32, epoch: u64) -> Vec<Vec<usize>> {
        let order = shuffled(self.sequences.len(), seed, epoch, 0);
        let mut batches = Vec::with_capacity(self.per_epoch());
        for stretch in order.chunks(self.rows.saturating_mul(self.stretch)) {
            let mut stretch = stretch.to_vec();
            // What is equally long stays in the order of the shuffle.
            stretch.sort_by_key(|&index| self.sequences[index].tokens.len());
            batches.extend(stretch.chunks(self.rows).map(<[usize]>::to_vec));
        }
        let order = shuffled(batches.len(), seed, epoch, 1);
        order.into_iter().map(|index| std::mem::take(&mut batches[index])).collect()
    }

    /// Batch `index` of a seed, counted over the epochs, with `tokens` and `targets`, both
    /// (rows, length), and its [length](Batch::length).
    pub fn batch(&self, seed: u32, index: u64) -> Batch {
        let per_epoch = self.per_epoch() as u64;
        let epoch = self.epoch(seed, index / per_epoch);
        self.of(&epoch[(index % per_epoch) as usize])
    }

    /// Batches from `index` on, without end.
    pub fn batches(&self, seed: u32, index: u64) -> impl Iterator<Item = Batch> + '_ {
        let per_epoch = self.per_epoch() as u64;
        let skipped = (index % per_epoch) as usize;
        let epochs = (index / per_epoch..).flat_map(move |epoch| self.epoch(seed, epoch));
        epochs.skip(skipped).map(|indices| self.of(&indices))
    }

    /// A batch of these sequences; rows behind them are empty.
    fn of(&self, indices: &[usize]) -> Batch {
        let length = self.length_of(indices);
        let mut tokens = vec![self.pad; self.rows * length];
        let mut targets = vec![IGNORE; self.rows * length];
        for (row, &index) in indices.iter().enumerate() {
            let sequence = &self.sequences[index];
            let place = row * length..row * length + sequence.tokens.len();
            tokens[place.clone()].copy_from_slice(&sequence.tokens);
            targets[place].copy_from_slice(&sequence.targets);
        }
        Batch::new().with("tokens", tokens).with("targets", targets).of_length(length)
    }

    fn length_of(&self, indices: &[usize]) -> usize {
        let positions = indices.iter().map(|&index| self.sequences[index].tokens.len());
        let longest = positions.max().unwrap_or(0);
        self.lengths.holding(longest).expect("lengths are checked")
    }

    /// How much of the batches of an epoch is padding.
    pub fn padding(&self, seed: u32, epoch: u64) -> Padding {
        let epoch = self.epoch(seed, epoch);
        let positions: usize = epoch.iter().map(|batch| self.rows * self.length_of(batch)).sum();
        let tokens = self.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        Padding { tokens, padding: positions - tokens }
    }
}

/// Batches that are sorted by length together.
const STRETCH: usize = 64;

pub(super) fn check_rows(rows: usize) -> Result<()> {
    if rows > 0 {
        return Ok(());
    }
    let (setting, value) = ("rows of a batch", rows.to_string());
    Err(Error::Setting { setting, value, range: "at least 1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(first: u32, length: usize) -> Sequence {
        let tokens: Vec<_> = (first..).take(length).collect();
        Sequence { targets: tokens.iter().map(|token| token + 1).collect(), tokens }
    }

    /// As many sequences, of 1 to 16 positions, that can be told apart.
    fn sequences(count: usize) -> Vec<Sequence> {
        (0..count).map(|index| sequence(100 * index as u32, 1 + index * 7 % 16)).collect()
    }

    fn batches(count: usize) -> PaddedBatches {
        let lengths = Lengths::new([4, 8, 16]).expect("lengths");
        PaddedBatches::new(sequences(count), lengths, 3).expect("batches")
    }

    #[test]
    fn an_epoch_takes_each_sequence_once() {
        for count in [1, 2, 3, 4, 47, 48] {
            let batches = batches(count).sorted_within(2);
            for epoch in 0..3 {
                let drawn = batches.epoch(5, epoch);
                assert_eq!(drawn.len(), batches.per_epoch());
                let mut all: Vec<_> = drawn.concat();
                all.sort_unstable();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
            if count > 40 {
                assert_ne!(batches.epoch(5, 0), batches.epoch(5, 1));
                assert_ne!(batches.epoch(5, 0), batches.epoch(6, 0));
            }
        }
    }

    #[test]
    fn a_batch_depends_on_seed_and_index_alone() {
        let batches = batches(47);
        let all: Vec<_> = batches.batches(3, 0).take(40).collect();
        for index in [0, 1, 15, 16, 31, 39] {
            assert_eq!(batches.batch(3, index as u64), all[index]);
            assert_eq!(batches.batches(3, index as u64).next().as_ref(), Some(&all[index]));
        }
    }

    #[test]
    fn rows_are_sequences_and_padding() {
        let batches = batches(5).padded_with(9);
        let indices = [1, 4]; // of 8 and of 13 positions
        let (mut tokens, mut targets) = (vec![9; 48], vec![IGNORE; 48]);
        for (row, index) in indices.into_iter().enumerate() {
            let Sequence { tokens: ids, targets: next } = &batches.sequences[index];
            tokens[16 * row..][..ids.len()].copy_from_slice(ids);
            targets[16 * row..][..ids.len()].copy_from_slice(next);
        }
        let expected = Batch::new().with("tokens", tokens).with("targets", targets);
        assert_eq!(batches.of(&indices), expected.of_length(16));
        assert_eq!(batches.of(&[1]).length(), Some(8));
    }

    #[test]
    fn sorting_saves_padding_and_is_reported() {
        let (sorted, drawn) = (batches(96), batches(96).sorted_within(1));
        let counted = |batches: &PaddedBatches| {
            let positions = batches.epoch(1, 0).iter().map(|b| 3 * batches.length_of(b)).sum();
            let tokens: usize = batches.sequences.iter().map(|s| s.tokens.len()).sum();
            (tokens, positions)
        };
        for batches in [&sorted, &drawn] {
            let Padding { tokens, padding } = batches.padding(1, 0);
            assert_eq!((tokens, tokens + padding), counted(batches));
        }
        let [sorted, drawn] = [sorted, drawn].map(|batches| batches.padding(1, 0).share());
        assert!(sorted < 0.25 && drawn > 0.35, "{sorted} {drawn}");
        assert_eq!(Padding::default().share(), 0.0);
    }

    #[cfg(feature = "text")]
    #[test]
    fn samples_of_texts_are_sequences() {
        let sample =
            crate::text::Sample { tokens: vec![5, 6, 7], counts: vec![false, false, true] };
        let expected = Sequence { tokens: vec![5, 6], targets: vec![IGNORE, 7] };
        assert_eq!(Sequence::from(&sample), expected);
    }

    #[test]
    fn what_makes_no_batch_is_refused() {
        let lengths = || Lengths::new([4, 8]).expect("lengths");
        let refused = |sequences: Vec<Sequence>, rows, part: &str| {
            let error = PaddedBatches::new(sequences, lengths(), rows).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(vec![], 1, "there are none");
        refused(vec![sequence(0, 3), Sequence::default()], 1, "number 1 is empty");
        refused(
            vec![sequence(0, 9)],
            1,
            "number 0 has 9 tokens, more than the longest length, which",
        );
        let uneven = Sequence { targets: vec![1], ..sequence(0, 2) };
        refused(vec![uneven], 1, "has 2 tokens, but 1 targets");
        refused(vec![sequence(0, 8)], 0, "rows of a batch is 0");
        assert!(PaddedBatches::new([sequence(0, 8)], lengths(), 1).is_ok());
    }
}
