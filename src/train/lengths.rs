//! The lengths that sequences are padded to.

use crate::error::{Error, Result};

/// The lengths that batches of a trainer may have, shortest first: each has a plan of its own, made
/// when it is first needed, over the same parameters and in the same memory.
///
/// A sequence is padded behind its end to the shortest of them that holds it, with any token and
/// [`IGNORE`](super::IGNORE) as targets. In a causal model this changes neither loss nor gradients:
/// nothing that counts sees what comes behind it. More lengths mean less padding, and more plans: each
/// takes its lists of dispatches, and in its first step some waits until what it costs is known.
///
/// ```
/// use evenkeel::train::Lengths;
///
/// let lengths = Lengths::up_to(400)?;
/// assert_eq!(lengths.all(), [64, 96, 128, 192, 256, 384, 400]);
/// assert_eq!(lengths.holding(100), Some(128));
/// assert_eq!(lengths.holding(401), None);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(Vec<usize>);

impl Lengths {
    /// The most lengths there may be.
    pub const MOST: usize = 32;

    /// These lengths.
    ///
    /// # Errors
    /// [`Error::Setting`] where there are none or more than [`MOST`](Self::MOST), and for a length
    /// of 0.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut lengths: Vec<_> = lengths.into_iter().collect();
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.is_empty() || lengths.len() > Self::MOST || lengths[0] == 0 {
            return Err(Error::Setting {
                setting: "lengths",
                value: format!("{lengths:?}"),
                range: "1 to 32 lengths of at least 1 position",
            });
        }
        Ok(Self(lengths))
    }

    /// 64, 96, 128, 192, 256, and so on with the powers of two and what lies between them, up to
    /// `longest`, which is one of them: what is longer than 64 is padded by less than half of itself,
    /// and by a sixth where all lengths are equally frequent.
    ///
    /// # Errors
    /// [`Error::Setting`] for 0, and from 3,145,729 on.
    pub fn up_to(longest: usize) -> Result<Self> {
        let steps = (6..usize::BITS - 1).flat_map(|power| [2 << (power - 1), 3 << (power - 1)]);
        Self::new(steps.take_while(|&length| length < longest).chain([longest]))
    }

    /// Multiples of `step` up to `longest`, which is one of the lengths.
    ///
    /// # Errors
    /// [`Error::Setting`] for a step of 0, and as [`new`](Self::new).
    pub fn multiples_of(step: usize, longest: usize) -> Result<Self> {
        let before = longest.saturating_sub(1).checked_div(step);
        let Some(before) = before.filter(|&before| before < Self::MOST) else {
            return Err(Error::Setting {
                setting: "lengths",
                value: format!("multiples of {step} up to {longest}"),
                range: "at most 32 lengths",
            });
        };
        Self::new((1..=before).map(|multiple| multiple * step).chain([longest]))
    }

    /// All of them, shortest first.
    pub fn all(&self) -> &[usize] {
        &self.0
    }

    /// The longest.
    pub fn longest(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// The shortest that holds a sequence of so many positions.
    pub fn holding(&self, positions: usize) -> Option<usize> {
        self.0.get(self.0.partition_point(|&length| length < positions)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pads_by_less_than_half() {
        for longest in [1, 63, 64, 65, 96, 100, 1024, 4096, 131_072] {
            let lengths = Lengths::up_to(longest).expect("lengths");
            assert_eq!(lengths.longest(), longest);
            for positions in 1..=longest {
                let padded = lengths.holding(positions).expect("a length");
                assert!(padded >= positions && (padded <= 64 || 2 * padded < 3 * positions + 3));
            }
        }
        assert_eq!(Lengths::up_to(4096).expect("lengths").all().len(), 13);
        assert_eq!(Lengths::up_to(3 << 20).expect("lengths").all().len(), Lengths::MOST);
    }

    #[test]
    fn lengths_are_few_and_hold_something() {
        assert_eq!(Lengths::new([16, 8, 16]).expect("lengths").all(), [8, 16]);
        assert_eq!(Lengths::multiples_of(32, 100).expect("lengths").all(), [32, 64, 96, 100]);
        assert_eq!(Lengths::multiples_of(32, 96).expect("lengths").all(), [32, 64, 96]);
        assert_eq!(Lengths::multiples_of(1, 32).expect("lengths").all().len(), 32);
        for wrong in [
            Lengths::new([]),
            Lengths::new([0, 8]),
            Lengths::new(1..=33),
            Lengths::up_to(0),
            Lengths::up_to((3 << 20) + 1),
            Lengths::multiples_of(0, 8),
            Lengths::multiples_of(1, 33),
        ] {
            let error = wrong.expect_err("refused").to_string();
            assert!(error.contains("lengths is") && error.contains("32 lengths"), "{error}");
        }
    }
}
