//! Learning rates over the steps of the optimizer, as `lr_schedule` names them.

use std::f64::consts::PI;

use evenkeel::train::Schedule;
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

/// A schedule by the name and the arguments that it has in `mlx.optimizers.schedulers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrSchedule {
    /// `cosine_decay`, `linear_schedule`, `exponential_decay` or `step_decay`.
    pub name: String,
    /// The first is the learning rate that it begins with.
    pub arguments: Vec<f64>,
    /// Steps in front of it, on a line from `warmup_init` to the first argument.
    #[serde(default)]
    pub warmup: u64,
    #[serde(default)]
    pub warmup_init: f64,
}

/// A schedule with its arguments, each in its place.
#[derive(Clone, Copy)]
enum Curve {
    Cosine { from: f64, steps: f64, to: f64 },
    Linear { from: f64, to: f64, steps: f64 },
    Exponential { from: f64, rate: f64 },
    Steps { from: f64, rate: f64, size: f64 },
}

impl Curve {
    /// The learning rate at step `t`, counted from 0.
    fn rate(self, t: u64) -> f64 {
        let t = t as f64;
        match self {
            Self::Cosine { from, steps, to } => {
                let share = (1.0 + (PI * t.min(steps) / steps).cos()) / 2.0;
                to + share * (from - to)
            }
            Self::Linear { from, to, steps } => from + (to - from) * (t.min(steps) / steps),
            Self::Exponential { from, rate } => from * rate.powf(t),
            Self::Steps { from, rate, size } => from * rate.powf((t / size).floor()),
        }
    }
}

impl LrSchedule {
    fn curve(&self) -> Result<Curve> {
        let refuse = |range| {
            let value = format!("{} {:?}", self.name, self.arguments);
            Err(Error::Setting { setting: "lr_schedule", value, range })
        };
        let curve = match (&*self.name, &self.arguments[..]) {
            ("cosine_decay", &[from, steps]) => Curve::Cosine { from, steps, to: 0.0 },
            ("cosine_decay", &[from, steps, to]) => Curve::Cosine { from, steps, to },
            ("linear_schedule", &[from, to, steps]) => Curve::Linear { from, to, steps },
            ("exponential_decay", &[from, rate]) => Curve::Exponential { from, rate },
            ("step_decay", &[from, rate, size]) => Curve::Steps { from, rate, size },
            _ => {
                return refuse(
                    "cosine_decay [rate, steps, end], linear_schedule [rate, end, steps], \
                     exponential_decay [rate, factor] or step_decay [rate, factor, steps]",
                );
            }
        };
        let (Curve::Cosine { steps, .. }
        | Curve::Linear { steps, .. }
        | Curve::Steps { size: steps, .. }) = curve
        else {
            return Ok(curve);
        };
        if steps >= 1.0 { Ok(curve) } else { refuse("over at least 1 step") }
    }

    /// The largest learning rate of so many steps, and the schedule of factors on it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name or a number of arguments that there is not.
    pub fn over(&self, steps: u64) -> Result<(f64, Schedule)> {
        let curve = self.curve()?;
        let line = Curve::Linear {
            from: self.warmup_init,
            to: curve.rate(0),
            steps: (self.warmup as f64).max(1.0),
        };
        // The last step of the warm-up has the rate that the curve begins with, and so has the next.
        let behind = if self.warmup > 0 { self.warmup + 1 } else { 0 };
        let rate = |t: u64| if t < behind { line.rate(t) } else { curve.rate(t - behind) };
        let rates: Vec<_> = (0..steps.max(1)).map(rate).collect();
        let largest = rates.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Ok((0.0, Schedule::default()));
        }
        Ok((largest, Schedule::Factors(rates.iter().map(|rate| rate / largest).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(name: &str, arguments: &[f64], warmup: u64, steps: u64) -> Vec<f64> {
        let (name, arguments) = (name.to_owned(), arguments.to_vec());
        let schedule = LrSchedule { name, arguments, warmup, warmup_init: 0.0 };
        let (largest, schedule) = schedule.over(steps).expect("a schedule");
        (0..steps as usize).map(|t| largest * schedule.factor(t)).collect()
    }

    #[track_caller]
    fn check(rates: &[f64], expected: &[f64]) {
        assert_eq!(rates.len(), expected.len());
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn curves_are_those_of_their_formulas() {
        check(
            &rates("cosine_decay", &[1.0, 4.0, 0.2], 0, 6),
            &[
                1.0,
                0.2 + 0.8 * (1.0 + 0.5_f64.sqrt()) / 2.0,
                0.6,
                0.2 + 0.8 * (1.0 - 0.5_f64.sqrt()) / 2.0,
                0.2,
                0.2,
            ],
        );
        check(&rates("linear_schedule", &[0.0, 1.0, 2.0], 0, 4), &[0.0, 0.5, 1.0, 1.0]);
        check(&rates("exponential_decay", &[1.0, 0.5], 0, 3), &[1.0, 0.5, 0.25]);
        check(&rates("step_decay", &[1.0, 0.5, 2.0], 0, 5), &[1.0, 1.0, 0.5, 0.5, 0.25]);
        check(&rates("exponential_decay", &[1.0, 0.5], 2, 5), &[0.0, 0.5, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn unknown_ones_are_refused() {
        for (name, arguments) in [("cosine", &[1.0, 2.0][..]), ("step_decay", &[1.0])] {
            let (name, arguments) = (name.to_owned(), arguments.to_vec());
            let schedule = LrSchedule { name, arguments, warmup: 0, warmup_init: 0.0 };
            let error = schedule.over(3).expect_err("refused").to_string();
            assert!(error.contains("cosine_decay [rate, steps, end]"), "{error}");
        }
    }
}
