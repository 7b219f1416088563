//! Which clip threshold the norms of a run suggest.

use std::fmt;

use crate::watch::{Record, number, scalar};

/// Percentiles that the table of an [`Advice`] shows.
const CANDIDATES: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9];
/// Fewer norms than this say little.
const FEW: usize = 100;

/// Collects the gradient norms of a run and suggests a threshold for the next one.
///
/// The suggestion is a percentile of the norms, as AutoClip (arXiv 2007.14469) takes it, the 90th
/// unless told otherwise: the usual steps pass unchanged and the largest tenth is scaled down.
/// Only finite norms of applied steps count. The first steps of a run have norms of their own, so
/// a warm-up is left out. All norms are kept, four bytes a step, so percentiles are exact; between
/// two norms they are interpolated linearly, as NumPy does.
///
/// Norms are those before clipping, but of a run that was clipped: with a threshold far from the
/// one suggested, a second run may suggest another one.
///
/// ```
/// use evenkeel::watch::{Record, ThresholdAdviser};
///
/// let mut adviser = ThresholdAdviser::new(10);
/// for step in 0..1010 {
///     let norm = 0.5 + (step * 37 % 1000) as f64 / 1000.0;
///     adviser.update(&Record::new(step).with("gradient_norm", norm));
/// }
/// let advice = adviser.advise().expect("there are norms");
/// assert_eq!((advice.norms, advice.suggestion.threshold), (1000, 1.4));
/// assert_eq!(advice.suggestion.clipped, 0.099);
/// println!("{advice}");
/// ```
#[derive(Clone, Debug)]
pub struct ThresholdAdviser {
    warmup: u64,
    percentile: f64,
    norms: Vec<f32>,
}

/// A threshold, and what it would have done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Percentile of the norms that the threshold is.
    pub percentile: f64,
    /// The threshold: that percentile, rounded up to three significant digits.
    pub threshold: f32,
    /// Share of the steps whose norm was above it.
    pub clipped: f64,
}

/// What a [`ThresholdAdviser`] says; [`Display`](fmt::Display) gives it as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The threshold to take.
    pub suggestion: Candidate,
    /// Others, by rising percentile; the suggestion is among them.
    pub candidates: Vec<Candidate>,
    /// How many norms this rests on.
    pub norms: usize,
    /// Steps at the beginning that were left out.
    pub warmup: u64,
    /// The largest norm.
    pub largest: f32,
}

impl ThresholdAdviser {
    /// Leaves out the steps below `warmup`.
    pub const fn new(warmup: u64) -> Self {
        Self { warmup, percentile: 90.0, norms: Vec::new() }
    }

    /// Suggests this percentile.
    ///
    /// # Panics
    /// If it is not above 0 and at most 100.
    #[must_use]
    pub fn percentile(self, percentile: f64) -> Self {
        assert!(percentile > 0.0 && percentile <= 100.0, "{percentile} is not in (0, 100]");
        Self { percentile, ..self }
    }

    /// Takes the norm of a step, if it is one that counts.
    pub fn update(&mut self, record: &Record) {
        if record.step < self.warmup || !record.applied() {
            return;
        }
        let norm = record.get(scalar::GRADIENT_NORM).map(|norm| norm as f32);
        self.norms.extend(norm.filter(|norm| norm.is_finite()));
    }

    /// The suggestion; `None` while there are no norms, and where they are all 0 up to the
    /// percentile.
    pub fn advise(&self) -> Option<Advice> {
        let mut sorted = self.norms.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let largest = *sorted.last()?;
        let mut percentiles = CANDIDATES.to_vec();
        if !percentiles.contains(&self.percentile) {
            percentiles.push(self.percentile);
            percentiles.sort_unstable_by(f64::total_cmp);
        }
        let candidate = |percentile| {
            let threshold = round_up(interpolate(&sorted, percentile));
            let above = sorted.len() - sorted.partition_point(|&norm| norm <= threshold);
            let clipped = above as f64 / sorted.len() as f64;
            Candidate { percentile, threshold, clipped }
        };
        let candidates: Vec<_> = percentiles.into_iter().map(candidate).collect();
        let suggested = |candidate: &&Candidate| candidate.percentile == self.percentile;
        let suggestion = *candidates.iter().find(suggested).expect("it was put in");
        let (norms, warmup) = (sorted.len(), self.warmup);
        let advice = Advice { suggestion, candidates, norms, warmup, largest };
        (suggestion.threshold > 0.0).then_some(advice)
    }
}

/// The percentile of sorted norms.
fn interpolate(sorted: &[f32], percentile: f64) -> f64 {
    let position = percentile / 100.0 * (sorted.len() - 1) as f64;
    let (below, share) = (position.floor(), position.fract());
    let at = |index: f64| f64::from(sorted[(index as usize).min(sorted.len() - 1)]);
    at(below) + share * (at(below + 1.0) - at(below))
}

/// Up to three significant digits: a threshold that people can type, and that norms which are all
/// the same do not exceed by a rounding.
fn round_up(value: f64) -> f32 {
    let nearest = format!("{value:.2e}");
    let parse = |text: &str| text.parse::<f32>().expect("a number");
    if parse(&nearest) >= value as f32 {
        return parse(&nearest);
    }
    let (digits, exponent) = nearest.split_once('e').expect("scientific notation");
    let next = (digits.replace('.', "").parse::<u32>().expect("three digits") + 1).to_string();
    // 9.99 is followed by 10.00.
    let next = format!("{}.{}e{exponent}", &next[..next.len() - 2], &next[next.len() - 2..]);
    parse(&next).min(f32::MAX)
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidate { threshold, percentile, clipped } = self.suggestion;
        write!(f, "clip threshold {}: ", number::brief(threshold.into()))?;
        write!(f, "percentile {percentile} of {} norms", number::grouped(self.norms as f64))?;
        if self.warmup > 0 {
            write!(f, ", {} steps of warm-up left out", number::grouped(self.warmup as f64))?;
        }
        writeln!(f, "; it would have clipped {} of the steps", number::percent(clipped))?;
        writeln!(f, "  percentile   threshold   steps clipped")?;
        for candidate in &self.candidates {
            let Candidate { percentile, threshold, clipped } = candidate;
            let threshold = number::brief((*threshold).into());
            let mark = if *candidate == self.suggestion { "  <" } else { "" };
            let clipped = number::percent(*clipped);
            writeln!(f, "  {percentile:>10}   {threshold:>9}   {clipped:>13}{mark}")?;
        }
        write!(f, "  the largest norm was {}", number::brief(self.largest.into()))?;
        if self.norms < FEW {
            write!(f, "; so few norms say little")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod checks {
    use super::round_up;

    #[test]
    fn thresholds_are_rounded_up_to_three_digits() {
        for (value, rounded) in [
            (1.234_5, 1.24_f32),
            (1.235_5, 1.24),
            (f64::from(1.1_f32), 1.1),
            (9.991, 10.0),
            (99_910.0, 1e5),
            (0.000_123_41, 0.000_124),
            (0.0, 0.0),
            (3.0e38, 3.0e38),
            (f32::MAX.into(), f32::MAX),
        ] {
            assert_eq!(round_up(value), rounded, "{value}");
        }
    }
}
