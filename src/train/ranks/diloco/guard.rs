//! Which ranks count in a round.

use std::collections::VecDeque;
use std::fmt;

/// The deviation of a normal distribution, in median absolute deviations.
const DEVIATION_PER_MAD: f64 = 1.4826;
/// Deviations above the median within which a norm is none of the outliers. With a normal
/// distribution one norm in 10^9 is above.
const DEVIATIONS: f64 = 6.0;
/// With fewer ranks, how far their norms lie apart tells nothing ...
const ENOUGH_RANKS: usize = 4;
/// ... and one is an outlier only above so many times the others, unless earlier rounds tell more.
const FACTOR_OF_FEW: f64 = 10.0;
/// Rounds that are remembered ...
pub(super) const ROUNDS: usize = 16;
/// ... and how many have to be there to count.
const ENOUGH_ROUNDS: usize = 3;

/// Why a rank was left out of a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// A weight or running statistic is NaN or Inf, or a difference is that its
    /// [encoding](super::DifferenceEncoding) has no number for.
    NotFinite {
        /// The first tensor or state with such an element.
        tensor: String,
    },
    /// No weight has moved: every step since the last round was skipped, say.
    Still,
    /// The norm of its difference is far above those of the other ranks or of earlier rounds.
    Outlier {
        /// Euclidean norm of the difference, over all trained weights.
        norm: f64,
        /// What it should not have been above.
        limit: f64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { tensor } => {
                write!(f, "its {tensor} is NaN, Inf, or too far from where it was for the encoding")
            }
            Self::Still => f.write_str("its weights have not moved"),
            Self::Outlier { norm, limit } => {
                write!(f, "it moved by {norm:.3e}, and at most {limit:.3e} is usual")
            }
        }
    }
}

/// What a rank has found in its own difference.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// The norm.
    Norm(f64),
    /// The first tensor that is not finite.
    NotFinite(String),
}

/// Remembers how far ranks moved in earlier rounds. Equal on all ranks, since it is told the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Guard {
    /// The median norm of the ranks that counted, by round, the oldest first.
    pub history: VecDeque<f64>,
}

impl Guard {
    /// Why each rank is left out; `None` for those that count.
    pub fn judge(&self, all: &[Found], factor: f64) -> Vec<Option<Why>> {
        let norm = |found: &Found| match found {
            Found::Norm(norm) if *norm > 0.0 => Some(*norm),
            _ => None,
        };
        let norms: Vec<_> = all.iter().filter_map(norm).collect();
        let limit = self.limit(&norms, factor);
        let why = |found: &Found| match found {
            Found::NotFinite(tensor) => Some(Why::NotFinite { tensor: tensor.clone() }),
            Found::Norm(norm) if *norm == 0.0 => Some(Why::Still),
            // Neither is a norm that is NaN.
            Found::Norm(norm) if *norm <= limit => None,
            Found::Norm(norm) => Some(Why::Outlier { norm: *norm, limit }),
        };
        all.iter().map(why).collect()
    }

    /// Above it norms are outliers.
    fn limit(&self, norms: &[f64], factor: f64) -> f64 {
        let among = if norms.len() < ENOUGH_RANKS {
            usual(norms, factor.max(FACTOR_OF_FEW))
        } else {
            usual(norms, factor)
        };
        let past = if self.history.len() < ENOUGH_ROUNDS {
            None
        } else {
            usual(&Vec::from_iter(self.history.iter().copied()), factor)
        };
        // Where all ranks moved further than ever, the run has changed and no rank stands out: were all
        // left out, they would be so for ever.
        let past = past.filter(|&limit| norms.iter().any(|&norm| norm <= limit));
        let limit = |limit: Option<f64>| limit.unwrap_or(f64::INFINITY);
        limit(among).min(limit(past))
    }

    /// Takes in a round in which ranks with these norms counted.
    pub fn remember(&mut self, norms: &[f64]) {
        let Some(median) = low_median(norms) else { return };
        if self.history.len() == ROUNDS {
            self.history.pop_front();
        }
        self.history.push_back(median);
    }
}

/// The largest norm beside these that is not unusual; `None` where there are none.
fn usual(norms: &[f64], factor: f64) -> Option<f64> {
    let median = low_median(norms)?;
    let apart: Vec<_> = norms.iter().map(|norm| (norm - median).abs()).collect();
    let deviation = DEVIATION_PER_MAD * low_median(&apart)?;
    Some((factor * median).max(median + DEVIATIONS * deviation))
}

/// The lower one of two in the middle: of two ranks that of the smaller norm, since what goes wrong
/// goes far.
fn low_median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTOR: f64 = 3.0;

    fn norms(norms: &[f64]) -> Vec<Found> {
        norms.iter().copied().map(Found::Norm).collect()
    }

    /// The ranks that are left out.
    fn left_out(guard: &Guard, all: &[f64]) -> Vec<usize> {
        let judged = guard.judge(&norms(all), FACTOR).into_iter().enumerate();
        judged.filter_map(|(rank, why)| why.map(|_| rank)).collect()
    }

    fn after(medians: &[f64]) -> Guard {
        let mut guard = Guard::default();
        medians.iter().for_each(|&median| guard.remember(&[median]));
        guard
    }

    #[test]
    fn medians_are_the_lower_ones() {
        assert_eq!(low_median(&[]), None);
        assert_eq!(low_median(&[3.0]), Some(3.0));
        assert_eq!(low_median(&[3.0, 1.0]), Some(1.0));
        assert_eq!(low_median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(low_median(&[4.0, 3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn what_is_not_finite_or_still_is_left_out_whatever_else_is() {
        let found = [Found::Norm(1.0), Found::NotFinite("w".into()), Found::Norm(0.0)];
        let judged = Guard::default().judge(&found, FACTOR);
        let not_finite = Why::NotFinite { tensor: "w".into() };
        assert_eq!(judged, [None, Some(not_finite.clone()), Some(Why::Still)]);
        assert_eq!(Guard::default().judge(&found[1..2], FACTOR), [Some(not_finite)]);
        assert_eq!(Guard::default().judge(&[], FACTOR), []);
        // Those that are left out are no peers: beside a norm of 0 any would stand out.
        assert_eq!(left_out(&Guard::default(), &[0.0, 0.0, 5.0]), [0, 1]);
        // A norm that is not finite itself is none that is usual.
        assert_eq!(left_out(&Guard::default(), &[1.0, f64::INFINITY]), [1]);
        assert_eq!(left_out(&Guard::default(), &[1.0, f64::NAN]), [1]);
    }

    #[test]
    fn few_ranks_differ_much_before_one_is_left_out() {
        let fresh = Guard::default();
        assert_eq!(left_out(&fresh, &[7.0]), [0; 0]);
        assert_eq!(left_out(&fresh, &[1.0, 9.0]), [0; 0]);
        assert_eq!(left_out(&fresh, &[11.0, 1.0]), [0]);
        assert_eq!(left_out(&fresh, &[1.0, 1.1, 9.0]), [0; 0]);
        assert_eq!(left_out(&fresh, &[1.0, 1.1, 12.0]), [2]);
    }

    #[test]
    fn many_ranks_tell_how_far_they_lie_apart() {
        let fresh = Guard::default();
        assert_eq!(left_out(&fresh, &[1.0, 1.1, 0.9, 2.9]), [0; 0]);
        assert_eq!(left_out(&fresh, &[1.0, 1.1, 0.9, 3.1]), [3]);
        // Equal ranks have no deviation, and a factor holds.
        assert_eq!(left_out(&fresh, &[1.0, 1.0, 1.0, 2.9]), [0; 0]);
        // Two of four, which two in the middle would have taken for usual.
        assert_eq!(left_out(&fresh, &[60.0, 1.1, 1.0, 50.0]), [0, 3]);
        // Far apart, all of them.
        assert_eq!(left_out(&fresh, &[1.0, 2.0, 3.0, 4.0, 9.0]), [0; 0]);
        // The small one is no danger.
        assert_eq!(left_out(&fresh, &[1.0, 1.1, 0.9, 0.01]), [0; 0]);
    }

    #[test]
    fn earlier_rounds_tell_between_two_ranks() {
        let early = after(&[1.0, 1.1]);
        assert_eq!(left_out(&early, &[1.0, 5.0]), [0; 0]);
        let later = after(&[1.0, 1.1, 0.9]);
        assert_eq!(left_out(&later, &[1.0, 5.0]), [1]);
        assert_eq!(left_out(&later, &[2.9, 1.0]), [0; 0]);
        // Both: then it is the run.
        assert_eq!(left_out(&later, &[5.0, 6.0]), [0; 0]);
        assert_eq!(left_out(&later, &[5.0]), [0; 0]);
        // A linear warm-up of the learning rate passes.
        let mut rising = Guard::default();
        for round in 0..2 * ROUNDS {
            let norm = (2 * round + 1) as f64;
            assert_eq!(left_out(&rising, &[norm, 0.8 * norm]), [0; 0], "round {round}");
            rising.remember(&[norm, 0.8 * norm]);
        }
        assert_eq!(rising.history.len(), ROUNDS);
    }

    #[test]
    fn a_round_in_which_none_counts_is_not_remembered() {
        let mut guard = after(&[1.0]);
        guard.remember(&[]);
        assert_eq!(guard.history, [1.0]);
    }

    #[test]
    fn an_infinite_factor_leaves_out_what_is_not_finite_alone() {
        let judged = after(&[1.0; 5]).judge(&norms(&[1.0, 1e9]), f64::INFINITY);
        assert_eq!(judged, [None, None]);
    }
}
