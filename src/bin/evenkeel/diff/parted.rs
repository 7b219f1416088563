//! Records of two runs, side by side.

use evenkeel::watch::scalar;
use evenkeel::{Error, Result};

use crate::why::bits::Difference;
use crate::why::history::History;

/// Numbers that a clock gives.
const TIMED: [&str; 1] = [scalar::TOKENS_PER_SECOND];

/// A step whose numbers are not the same.
pub struct PartedStep {
    pub step: u64,
    /// In the order in which they were recorded; at least one.
    pub differences: Vec<Difference>,
}

/// Where two runs part.
pub struct Parted {
    /// Steps that both have.
    pub common: usize,
    /// Steps that one of them has alone.
    pub alone: [usize; 2],
    /// Those that are not the same.
    pub steps: Vec<PartedStep>,
}

impl Parted {
    /// Compares what both have recorded of a step.
    pub fn of(first: &History, second: &History) -> Self {
        let (mut common, mut steps) = (0, Vec::new());
        for then in first.records() {
            let Some(now) = second.record(then.step) else { continue };
            common += 1;
            let names = then.scalars().map(|(name, _)| name);
            let both = names.filter(|name| now.get(name).is_some() && !TIMED.contains(name));
            let differences: Vec<_> = Difference::each(then, now, both).collect();
            if !differences.is_empty() {
                steps.push(PartedStep { step: then.step, differences });
            }
        }
        let alone = [first.len() - common, second.len() - common];
        Self { common, alone, steps }
    }

    /// # Errors
    /// [`Error::Data`] where there is nothing to compare.
    pub fn check(&self, names: &[String; 2]) -> Result<()> {
        if self.common > 0 {
            return Ok(());
        }
        Err(Error::Data {
            what: names.join(" and "),
            reason: "they have no step in common; give two runs with the same settings".to_owned(),
        })
    }

    /// The step in which they part.
    pub fn first(&self) -> Option<&PartedStep> {
        self.steps.first()
    }

    /// The loss that is farthest from the other's.
    pub fn farthest_loss(&self) -> Option<&Difference> {
        let all = self.steps.iter().flat_map(|step| &step.differences);
        let losses = all.filter(|difference| difference.field == scalar::LOSS);
        losses.max_by_key(|difference| difference.ulps)
    }

    /// Which steps are compared, in words.
    pub fn extent(&self) -> String {
        let [first, second] = self.alone;
        let alone = match (first, second) {
            (0, 0) => String::new(),
            _ => format!("; the first alone has {first} more, the second {second}"),
        };
        format!("{} that both have{alone}", self.common)
    }
}

#[cfg(test)]
mod tests {
    use evenkeel::watch::Record;

    use super::*;

    fn history(losses: &[f64]) -> History {
        let record = |(step, &loss): (usize, &f64)| {
            let record = Record::new(step as u64).with("loss", loss);
            // Of no consequence.
            record.with("tokens_per_second", 3.0 * loss).with("learning_rate", 0.1)
        };
        losses.iter().enumerate().map(record).collect()
    }

    #[test]
    fn the_first_and_the_farthest_are_found() {
        let up = |loss: f32, ulps: u32| f64::from(f32::from_bits(loss.to_bits() + ulps));
        let first = history(&[4.0, 3.0, 2.0, f64::NAN]);
        let second = history(&[4.0, up(3.0, 2), up(2.0, 9), f64::NAN, 1.0]);
        let parted = Parted::of(&first, &second);
        assert_eq!((parted.common, parted.alone, parted.steps.len()), (4, [0, 1], 2));
        let step = parted.first().expect("a step");
        assert_eq!((step.step, step.differences.len()), (1, 1));
        assert_eq!(step.differences[0].ulps, Some(2));
        let farthest = parted.farthest_loss().expect("a loss");
        assert_eq!((farthest.step, farthest.ulps), (2, Some(9)));
        let same = Parted::of(&first, &first);
        assert!(same.first().is_none() && same.farthest_loss().is_none());
        let nothing = Parted::of(&first, &History::default());
        let error = nothing.check(&["a".into(), "b".into()]).expect_err("nothing").to_string();
        assert!(error.contains("a and b") && error.contains("no step in common"), "{error}");
    }
}
