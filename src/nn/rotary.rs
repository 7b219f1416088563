//! Rotary positions: by how much each pair of columns turns from one position to the next.

use std::f64::consts::TAU;

use crate::error::{Error, Result};
use crate::kernels::rotary_frequencies;

/// Rotation of queries and keys by their positions (Su et al. 2021, arXiv 2104.09864), in Llama's
/// pairing of columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Pair j of a head turns by base^(-2 j / head_dim) from one position to the next; usually
    /// 10,000.
    pub base: f64,
    /// What is done to these angles for a longer context.
    pub scaling: RotaryScaling,
}

/// How the angles of [`Rotary`] are changed so that a model reaches further than the context it was
/// first trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    #[default]
    None,
    /// All are divided by the factor: positions lie closer together (Chen et al. 2023, arXiv
    /// 2306.15595; Gemma 3's full layers: 8).
    Linear {
        /// Above 0.
        factor: f64,
    },
    /// Llama 3.1's (Grattafiori et al. 2024, arXiv 2407.21783): a pair that turns fewer than
    /// `low_freq_factor` times in the original context turns by 1 / factor of its angle, one that
    /// turns more than `high_freq_factor` times by all of it, and what lies between by a mean of
    /// both, linear in the number of turns.
    Llama3 {
        /// Above 0.
        factor: f64,
        /// Above 0.
        low_freq_factor: f64,
        /// Above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions that the model was first trained with, at least 1.
        original_context: usize,
    },
}

impl RotaryScaling {
    fn of(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context as f64 * frequency / TAU;
                let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let share = share.clamp(0.0, 1.0);
                (1.0 - share) * frequency / factor + share * frequency
            }
        }
    }
}

/// What errors call the numbers of one rotation.
pub(super) type RotaryNames = [&'static str; 5];

impl Rotary {
    /// The rotation of this base, not scaled.
    pub const fn new(base: f64) -> Self {
        Self { base, scaling: RotaryScaling::None }
    }

    /// By how much each pair of a head's columns turns from one position to the next, in radians:
    /// head_dim / 2 angles.
    ///
    /// # Panics
    /// Unless head_dim is a positive multiple of 8.
    #[track_caller]
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let mut frequencies = rotary_frequencies(head_dim, self.base);
        if self.scaling != RotaryScaling::None {
            frequencies.iter_mut().for_each(|frequency| *frequency = self.scaling.of(*frequency));
        }
        frequencies
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that makes no sense.
    pub fn validate(&self) -> Result<()> {
        self.validate_as([
            "rotary base",
            "rotary factor",
            "rotary low_freq_factor",
            "rotary high_freq_factor",
            "rotary original_context",
        ])
    }

    pub(super) fn validate_as(&self, names: RotaryNames) -> Result<()> {
        let [base_name, factor_name, low_name, high_name, context_name] = names;
        let positive = |setting, value: f64| {
            let range = "finite and above 0";
            let fits = value > 0.0 && value.is_finite();
            if fits { Ok(()) } else { fail(setting, value.to_string(), range) }
        };
        positive(base_name, self.base)?;
        match self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => positive(factor_name, factor),
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context,
            } => {
                positive(factor_name, factor)?;
                positive(low_name, low)?;
                positive(high_name, high)?;
                if high <= low {
                    return fail(high_name, high.to_string(), "above low_freq_factor");
                }
                if original_context == 0 {
                    return fail(context_name, "0".into(), "at least 1");
                }
                Ok(())
            }
        }
    }

    /// In a checkpoint's words.
    pub(super) fn words(&self) -> String {
        match self.scaling {
            RotaryScaling::None => format!("Rotary({:?})", self.base),
            _ => format!("{self:?}"),
        }
    }
}

fn fail(setting: &'static str, value: String, range: &'static str) -> Result<()> {
    Err(Error::Setting { setting, value, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RotaryScaling = RotaryScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };

    fn close(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 1e-14, "{actual:e} instead of {expected:e}");
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let frequencies = Rotary::new(10_000.0).frequencies(8);
        assert_eq!(frequencies.len(), 4);
        for (actual, expected) in frequencies.into_iter().zip([1.0, 0.1, 0.01, 0.001]) {
            close(actual, expected);
        }
    }

    #[test]
    fn linear_scaling_divides_all() {
        let scaling = RotaryScaling::Linear { factor: 8.0 };
        let scaled = Rotary { base: 1e6, scaling }.frequencies(256);
        for (scaled, plain) in scaled.into_iter().zip(Rotary::new(1e6).frequencies(256)) {
            close(scaled, plain / 8.0);
        }
    }

    /// Wavelengths, as transformers' `_compute_llama3_parameters` has them.
    #[test]
    fn llama3_scaling_by_wavelength() {
        let scaled = Rotary { base: 500_000.0, scaling: LLAMA3 }.frequencies(64);
        let plain = Rotary::new(500_000.0).frequencies(64);
        let mut seen = [0; 3];
        for (scaled, plain) in scaled.into_iter().zip(plain) {
            let wavelength = TAU / plain;
            let expected = if wavelength < 8192.0 / 4.0 {
                seen[0] += 1;
                plain
            } else if wavelength > 8192.0 / 1.0 {
                seen[2] += 1;
                plain / 32.0
            } else {
                seen[1] += 1;
                let smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                (1.0 - smooth) * plain / 32.0 + smooth * plain
            };
            close(scaled, expected);
        }
        assert!(seen.iter().all(|&count| count > 0), "pairs of each kind: {seen:?}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        let llama3 = |factor, low_freq_factor, high_freq_factor, original_context| {
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }
        };
        for (base, scaling, message) in [
            (f64::NAN, RotaryScaling::None, "rotary base is NaN, but must be finite and above 0"),
            (1e4, RotaryScaling::Linear { factor: 0.0 }, "rotary factor is 0"),
            (1e4, llama3(f64::INFINITY, 1.0, 4.0, 8), "rotary factor is inf"),
            (1e4, llama3(8.0, -1.0, 4.0, 8), "rotary low_freq_factor is -1"),
            (1e4, llama3(8.0, 4.0, 4.0, 8), "rotary high_freq_factor is 4, but must be above"),
            (1e4, llama3(8.0, 1.0, 4.0, 0), "rotary original_context is 0, but must be at least"),
        ] {
            let error = Rotary { base, scaling }.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Rotary { base: 5e5, scaling: LLAMA3 }.validate().is_ok());
    }
}
