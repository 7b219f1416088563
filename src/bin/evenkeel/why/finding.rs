//! What comes of steps that were taken again.

use evenkeel::train::{TensorTelemetry, ValueReport};
use evenkeel::watch::{Record, scalar};
use serde::Serialize;

use super::bits::Difference;
use super::history::Trouble;
use super::run::Run;
use super::steps::Replayed;

/// Tensors that are named, at most.
const NAMED: usize = 5;
/// Gradients below this share of the global norm do not matter.
const SHARE: f64 = 0.01;

/// An update above this share of its weights is a leap, where their root mean square is above
/// [`LARGE`].
const LEAP: f64 = 0.3;
/// Weights that grow from 0 are smaller.
const LARGE: f64 = 1.0;

/// What the bits of steps say, taken again.
#[derive(Clone, Debug, PartialEq)]
pub enum Bits {
    /// They are those of the records.
    Same,
    /// Another adapter or driver than that of the run has others, as is to be expected.
    OtherAdapter { was: String, is: String },
    /// They are others than those of the records, and the next time others again: where that began,
    /// and the first operation with another result, if a few tries showed one.
    Unsteady { difference: Difference, operation: Option<String> },
    /// They are others than those of the records, and each time the same.
    Others,
}

impl Bits {
    /// Where to look for the cause, in few words.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Same => "data or mathematics",
            Self::OtherAdapter { .. } => "another adapter or driver",
            Self::Unsteady { .. } => "hardware or driver",
            Self::Others => "driver, hardware at that time, or another version or settings",
        }
    }
}

/// A tensor whose gradient is out of line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standout {
    pub name: String,
    pub gradient_norm: f64,
    /// The median of its norms in the steps before.
    pub usual: Option<f64>,
    pub weight_rms: f64,
}

impl Standout {
    /// How many times its usual norm it has.
    pub fn times(&self) -> Option<f64> {
        self.usual.filter(|&usual| usual > 0.0).map(|usual| self.gradient_norm / usual)
    }
}

/// A step that was most of what a tensor is after it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leap {
    pub step: u64,
    pub name: String,
    /// Of the weights after the step.
    pub weight_rms: f64,
    /// Of the change beside that.
    pub update_to_weight: f64,
    pub learning_rate: Option<f64>,
}

impl Leap {
    /// Weights that start at 0 leave it by their first steps, but not so far.
    fn of(tensor: &TensorTelemetry, records: &[Record]) -> Option<Self> {
        let is_leap = tensor.update_to_weight > LEAP && tensor.weight_rms > LARGE;
        is_leap.then(|| Self {
            step: tensor.step,
            name: tensor.name.clone(),
            weight_rms: tensor.weight_rms,
            update_to_weight: tensor.update_to_weight,
            learning_rate: records
                .iter()
                .find(|record| record.step == tensor.step)
                .and_then(|record| record.get(scalar::LEARNING_RATE)),
        })
    }
}

/// All that is known of a step.
pub struct Finding<'a> {
    pub step: u64,
    /// Iterations in a step, where the command counts those.
    pub per_step: Option<u64>,
    pub run: &'a Run,
    pub trouble: Option<&'a Trouble>,
    pub bits: Bits,
    pub replayed: Replayed,
}

impl Finding<'_> {
    /// The step that the others begin at.
    pub fn from(&self) -> u64 {
        self.replayed.records.first().map_or(self.step, |record| record.step)
    }

    /// What the step gave now.
    pub fn now(&self) -> Option<&Record> {
        self.replayed.records.last()
    }

    /// Whether the step changed nothing now, or is not finite.
    pub fn goes_wrong_here(&self) -> bool {
        self.now().is_some_and(|now| {
            let is_finite = now.get(scalar::LOSS).is_some_and(f64::is_finite);
            !now.applied() || !is_finite
        })
    }

    /// The first value that is not finite.
    pub fn fault(&self) -> Option<&ValueReport> {
        self.replayed.diagnosis.as_ref()?.first_fault()
    }

    /// The row of the batch that it began in, where it is a value of one.
    pub fn faulty_row(&self) -> Option<usize> {
        let fault = self.fault()?;
        let rows = self.run.microbatch();
        let is_of_rows = fault.shape.dims.len() == 3 && fault.shape.dims[0] == rows;
        // What is wrong in all rows is no matter of one.
        let is_one = fault.nonfinite_count * rows <= fault.shape.count();
        let position = fault.first_position().filter(|_| is_of_rows && is_one)?;
        let row = position[0] + fault.microbatch * rows;
        (row < self.replayed.rows.len()).then_some(row)
    }

    /// The largest leap of a tensor in the steps before.
    pub fn leap(&self) -> Option<Leap> {
        let before = self.replayed.tensors.iter().flatten().filter(|one| one.step < self.step);
        let leaps = before.filter_map(|tensor| Leap::of(tensor, &self.replayed.records));
        leaps.max_by(|a, b| a.weight_rms.total_cmp(&b.weight_rms))
    }

    /// The tensors whose gradients are farthest from those of the steps before; without any, those
    /// with the largest.
    pub fn standouts(&self) -> Vec<Standout> {
        let mut steps = self.replayed.tensors.iter().rev();
        let Some(here) = steps.next() else { return Vec::new() };
        let before: Vec<_> = steps.collect();
        let all = here.iter().map(|tensor| tensor.gradient_norm).fold(0.0, f64::hypot);
        let matters = |tensor: &&TensorTelemetry| tensor.gradient_norm >= SHARE * all;
        let mut found: Vec<_> = here
            .iter()
            .filter(matters)
            .map(|tensor| Standout {
                name: tensor.name.clone(),
                gradient_norm: tensor.gradient_norm,
                usual: median(before.iter().flat_map(|step| {
                    let same = step.iter().filter(|other| other.name == tensor.name);
                    same.map(|other| other.gradient_norm)
                })),
                weight_rms: tensor.weight_rms,
            })
            .collect();
        let key = |one: &Standout| one.times().unwrap_or(one.gradient_norm / all);
        found.sort_by(|a, b| key(b).total_cmp(&key(a)));
        found.truncate(NAMED);
        found
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_leap_is_told_from_first_steps() {
        let tensor = |weight_rms, update_to_weight| TensorTelemetry {
            step: 4,
            name: "a".to_owned(),
            gradient_norm: 1.0,
            largest_gradient: 1.0,
            nonfinite_count: 0,
            zero_count: 0,
            weight_rms,
            largest_weight: 1.0,
            update_rms: weight_rms * update_to_weight,
            update_to_weight,
            frozen_share: 0.0,
            clipped_share: 0.0,
            eps_share: None,
        };
        let records = [Record::new(4).with(scalar::LEARNING_RATE, 7.0)];
        let leap = Leap::of(&tensor(50.0, 1.0), &records).expect("a leap");
        assert_eq!((leap.step, leap.learning_rate), (4, Some(7.0)));
        // From 0, and of a gain.
        assert_eq!(Leap::of(&tensor(1e-3, 1.0), &records), None);
        assert_eq!(Leap::of(&tensor(1.1, 1e-3), &records), None);
    }

    #[test]
    fn a_tensor_is_compared_with_its_own_past() {
        let standout =
            |usual| Standout { name: "a".to_owned(), gradient_norm: 6.0, usual, weight_rms: 1.0 };
        assert_eq!(standout(Some(2.0)).times(), Some(3.0));
        assert_eq!(standout(Some(0.0)).times(), None);
        assert_eq!(standout(None).times(), None);
    }
}
