//! What a run with DiLoCo is told before it begins.

use super::DifferenceEncoding;
use crate::error::{Error, Result};

/// Settings of [`DiLoCo`](super::DiLoCo), the same on all ranks.
///
/// ```
/// use evenkeel::train::ranks::{DiLoCoSettings, DifferenceEncoding};
///
/// let settings =
///     DiLoCoSettings { inner_steps: 100, encoding: DifferenceEncoding::Int8, ..Default::default() };
/// assert_eq!(settings.momentum, 0.9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiLoCoSettings {
    /// Steps that a rank takes by itself between two rounds, H; 500 by default.
    pub inner_steps: u64,
    /// Learning rate of the outer optimizer; 0.7 by default. 1 without momentum is plain averaging of
    /// weights.
    pub learning_rate: f64,
    /// Nesterov momentum of the outer optimizer, in \[0, 1); 0.9 by default.
    pub momentum: f64,
    /// How differences go over the network; f16 by default.
    pub encoding: DifferenceEncoding,
    /// How many times further than the median of others, or of earlier rounds, a rank may go without
    /// being left out as an outlier; 3 by default. `f64::INFINITY` leaves out only what is not finite or
    /// still. For inner steps that differ much from rank to rank, as few steps on unlike data do.
    pub outlier_factor: f64,
}

impl Default for DiLoCoSettings {
    fn default() -> Self {
        Self {
            inner_steps: 500,
            learning_rate: 0.7,
            momentum: 0.9,
            encoding: DifferenceEncoding::default(),
            outlier_factor: 3.0,
        }
    }
}

impl DiLoCoSettings {
    pub(super) fn validate(&self) -> Result<()> {
        let Self { inner_steps, learning_rate, momentum, outlier_factor, .. } = *self;
        let check = |setting, value: String, fits, range| {
            if fits { Ok(()) } else { Err(Error::Setting { setting, value, range }) }
        };
        let steps = inner_steps.to_string();
        check("inner_steps of DiLoCo", steps, inner_steps > 0, "at least 1")?;
        let is_rate = learning_rate > 0.0 && learning_rate.is_finite();
        let rate = learning_rate.to_string();
        check("learning_rate of DiLoCo", rate, is_rate, "above 0 and finite")?;
        let is_momentum = (0.0..1.0).contains(&momentum);
        check("momentum of DiLoCo", momentum.to_string(), is_momentum, "at least 0 and below 1")?;
        let factor = outlier_factor.to_string();
        check("outlier_factor of DiLoCo", factor, outlier_factor > 1.0, "above 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let good = DiLoCoSettings::default();
        good.validate().expect("the default");
        let infinite = DiLoCoSettings { outlier_factor: f64::INFINITY, ..good };
        infinite.validate().expect("no outliers");
        for (bad, expected) in [
            (DiLoCoSettings { inner_steps: 0, ..good }, "inner_steps of DiLoCo is 0, but"),
            (DiLoCoSettings { learning_rate: 0.0, ..good }, "learning_rate of DiLoCo is 0, but"),
            (DiLoCoSettings { learning_rate: f64::NAN, ..good }, "learning_rate of DiLoCo is NaN"),
            (DiLoCoSettings { momentum: 1.0, ..good }, "momentum of DiLoCo is 1, but"),
            (DiLoCoSettings { momentum: f64::NAN, ..good }, "momentum of DiLoCo is NaN"),
            (DiLoCoSettings { outlier_factor: 1.0, ..good }, "outlier_factor of DiLoCo is 1, but"),
            (
                DiLoCoSettings { outlier_factor: f64::NAN, ..good },
                "outlier_factor of DiLoCo is NaN",
            ),
        ] {
            let told = bad.validate().expect_err("out of range").to_string();
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
