//! From values to positions, and where the ticks go.

use crate::watch::number;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    Linear,
    /// Ticks at powers of ten.
    Decimal,
    /// Ticks at powers of two.
    Binary,
}

/// Values `low..high` over positions `start..end`.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub spacing: Spacing,
    pub low: f64,
    pub high: f64,
    pub start: f64,
    pub end: f64,
}

impl Axis {
    /// The position of a value; `None` for what cannot be shown.
    pub fn at(&self, value: f64) -> Option<f64> {
        let warp = |value: f64| if self.spacing == Spacing::Linear { value } else { value.ln() };
        if !value.is_finite() || (self.spacing != Spacing::Linear && value <= 0.0) {
            return None;
        }
        let share = (warp(value) - warp(self.low)) / (warp(self.high) - warp(self.low));
        Some(self.start + share * (self.end - self.start))
    }

    /// An axis for these values. What an axis that is not linear cannot show does not count. With
    /// `crop`, the largest hundredth may lie outside where the others would be squeezed; true is
    /// returned if it does.
    pub fn around(
        values: impl Iterator<Item = f64>,
        spacing: Spacing,
        crop: bool,
        (start, end): (f64, f64),
    ) -> (Self, bool) {
        let positive = spacing != Spacing::Linear;
        let shown = |value: &f64| value.is_finite() && (!positive || *value > 0.0);
        let mut values: Vec<f64> = values.filter(shown).collect();
        values.sort_unstable_by(f64::total_cmp);
        let axis = |low, high| Self { spacing, low, high, start, end };
        let (Some(&low), Some(&high)) = (values.first(), values.last()) else {
            return (if positive { axis(0.5, 2.0) } else { axis(0.0, 1.0) }, false);
        };
        if positive {
            // A factor keeps a line that is level off the frame.
            let margin = (high / low).powf(0.06).max(1.15);
            return (axis(low / margin, high * margin), false);
        }
        let usual = values[(values.len() - 1) * 99 / 100];
        let cropped = crop && usual > low && high - low > 3.0 * (usual - low);
        let high = if cropped { low + 1.3 * (usual - low) } else { high };
        let margin = if high > low { 0.06 * (high - low) } else { 0.05 * high.abs().max(1e-30) };
        let floor = if low >= 0.0 { 0.0 } else { f64::MIN };
        (axis((low - margin).max(floor), high + margin), cropped)
    }

    /// The position of a value, at the nearer end for one beyond it.
    pub fn inside(&self, value: f64) -> Option<f64> {
        let (first, last) = (self.start.min(self.end), self.start.max(self.end));
        self.at(value).map(|at| at.clamp(first, last))
    }

    /// About `count` values worth a label, with it.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let brief = |value: f64| (value, number::brief(value));
        match self.spacing {
            Spacing::Linear => self.linear(count).into_iter().map(brief).collect(),
            Spacing::Decimal => self.decimal(count).into_iter().map(brief).collect(),
            Spacing::Binary => self.binary(count),
        }
    }

    /// Multiples of 1, 2 or 5 times a power of ten.
    fn linear(&self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count as f64;
        if !(rough > 0.0 && rough.is_finite()) {
            return vec![self.low];
        }
        let power = 10_f64.powf(rough.log10().floor());
        // The nearest in ratio.
        let factor = match rough / power {
            below if below < 2_f64.sqrt() => 1.0,
            below if below < 10_f64.sqrt() => 2.0,
            below if below < 50_f64.sqrt() => 5.0,
            _ => 10.0,
        };
        let step = factor * power;
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|multiple| multiple as f64 * step).collect()
    }

    fn decimal(&self, count: usize) -> Vec<f64> {
        let (low, high) = (self.low.log10(), self.high.log10());
        let inside = |value: &f64| (self.low..=self.high).contains(value);
        let powers = (low.floor() as i32)..=(high.ceil() as i32);
        let factors: &[f64] = if high - low < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = (((high - low) / count as f64).round() as i32).max(1);
        let round: Vec<f64> = powers
            .filter(|power| power.rem_euclid(stride) == 0)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
            .filter(inside)
            .collect();
        if round.len() >= 3 {
            return round;
        }
        self.linear(count).into_iter().filter(|value| *value > 0.0).collect()
    }

    fn binary(&self, count: usize) -> Vec<(f64, String)> {
        let (low, high) = (self.low.log2().ceil() as i32, self.high.log2().floor() as i32);
        let stride = ((high - low) / count as i32).max(1);
        let label = |power: i32| {
            let value = 2_f64.powi(power);
            let text = if (0..=16).contains(&power) {
                number::grouped(value)
            } else {
                format!("2^{power}")
            };
            (value, text)
        };
        (low..=high).filter(|power| power.rem_euclid(stride) == 0).map(label).collect()
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    fn labels(spacing: Spacing, low: f64, high: f64) -> Vec<String> {
        let axis = Axis { spacing, low, high, start: 0.0, end: 100.0 };
        axis.ticks(5).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(Spacing::Linear, 1.93, 4.2), ["2", "2.5", "3", "3.5", "4"]);
        assert_eq!(labels(Spacing::Linear, 0.0, 1999.0), ["0", "500", "1,000", "1,500"]);
        assert_eq!(labels(Spacing::Decimal, 0.09, 3.0), ["0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(
            labels(Spacing::Decimal, 0.5, 2e5),
            ["1", "10", "100", "1,000", "10,000", "100,000"]
        );
        assert_eq!(labels(Spacing::Decimal, 1e-30, 1e30), ["1e-24", "1e-12", "1", "1e12", "1e24"]);
        assert_eq!(labels(Spacing::Decimal, 0.41, 0.62), ["0.45", "0.5", "0.55", "0.6"]);
        assert_eq!(
            labels(Spacing::Binary, 8192.0, 65536.0),
            ["8,192", "16,384", "32,768", "65,536"]
        );
        assert_eq!(labels(Spacing::Binary, 0.9, 2e9), ["1", "64", "4,096", "2^18", "2^24", "2^30"]);
    }

    #[test]
    fn what_cannot_be_shown_has_no_position() {
        let axis = |spacing| Axis { spacing, low: 1.0, high: 100.0, start: 50.0, end: 0.0 };
        assert_eq!(axis(Spacing::Decimal).at(10.0), Some(25.0));
        assert_eq!(axis(Spacing::Decimal).at(0.0), None);
        assert_eq!(axis(Spacing::Linear).at(f64::INFINITY), None);
        assert_eq!(axis(Spacing::Linear).at(100.0), Some(0.0));
        assert_eq!(axis(Spacing::Linear).inside(1e9), Some(0.0));
    }

    #[test]
    fn few_large_values_do_not_squeeze_the_others() {
        let values = || (0..200).map(|i| if i == 100 { 1e6 } else { f64::from(i % 10) });
        let around = |crop| Axis::around(values(), Spacing::Linear, crop, (0.0, 1.0));
        let (axis, cropped) = around(true);
        assert!(cropped && axis.low == 0.0 && (9.0..15.0).contains(&axis.high), "{axis:?}");
        let (axis, cropped) = around(false);
        assert!(!cropped && axis.high > 1e6, "{axis:?}");
        let nothing = [f64::NAN, -1.0].into_iter();
        let (axis, _) = Axis::around(nothing, Spacing::Decimal, false, (0.0, 1.0));
        assert_eq!((axis.low, axis.high), (0.5, 2.0));
        let (axis, _) = Axis::around([3.0].into_iter(), Spacing::Linear, false, (0.0, 1.0));
        assert_eq!(axis.at(3.0), Some(0.5));
    }
}
