//! What numbers are like, piece by piece.

use std::fmt;

use serde::Serialize;

/// Statistics of the finite ones among numbers, and how many are not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub mean: Option<f64>,
    /// Root of the mean square.
    pub rms: Option<f64>,
    /// How many are NaN or Inf.
    pub nonfinite: u64,
    #[serde(skip)]
    count: u64,
    #[serde(skip)]
    sum: f64,
    #[serde(skip)]
    squares: f64,
}

impl Statistics {
    /// Takes more of them.
    pub fn add(&mut self, numbers: impl IntoIterator<Item = f64>) {
        for number in numbers {
            if !number.is_finite() {
                self.nonfinite += 1;
                continue;
            }
            self.count += 1;
            self.sum += number;
            self.squares += number * number;
            self.min = Some(self.min.map_or(number, |min| min.min(number)));
            self.max = Some(self.max.map_or(number, |max| max.max(number)));
        }
        if self.count > 0 {
            let count = self.count as f64;
            (self.mean, self.rms) = (Some(self.sum / count), Some((self.squares / count).sqrt()));
        }
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in [self.min, self.max, self.mean, self.rms] {
            match value {
                Some(value) => write!(f, "{value:>11.4e} ")?,
                None => write!(f, "{:>11} ", "none")?,
            }
        }
        write!(f, "{:>11}", self.nonfinite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let mut statistics = Statistics::default();
        statistics.add([3.0, f64::NAN]);
        statistics.add([-4.0, f64::INFINITY, 1.0]);
        assert_eq!((statistics.min, statistics.max), (Some(-4.0), Some(3.0)));
        assert_eq!((statistics.mean, statistics.nonfinite), (Some(0.0), 2));
        assert_eq!(statistics.rms, Some((26.0_f64 / 3.0).sqrt()));
        let mut none = Statistics::default();
        none.add([f64::NEG_INFINITY]);
        assert_eq!((none.min, none.rms, none.nonfinite), (None, None, 1));
        assert!(none.to_string().contains("none"));
    }
}
