//! Llama 3's scaling of rotary frequencies, out of the factors that llama.cpp has in its place.

use std::f64::consts::TAU;

use crate::nn::{Rotary, RotaryScaling};

/// What all of Llama 3's models have: only their quotients with the original context count, and
/// that is in no file.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL_CONTEXT: usize = 8192;

/// How far computed factors may be from those of a file, which come out of sums in f32.
const TOLERANCE: f64 = 1e-4;

/// The scaling that divides the frequency of each pair of columns by these factors, if there is one.
pub(super) fn scaling_of(factors: &[f32], base: f64) -> Option<RotaryScaling> {
    let is_plain = |factor: &f32| *factor == 1.0;
    if factors.iter().all(is_plain) {
        return Some(RotaryScaling::None);
    }
    let pairs = factors.len();
    if !(pairs.is_multiple_of(4) && base > 0.0 && base.is_finite()) {
        return None;
    }
    let factors: Vec<_> = factors.iter().map(|&factor| f64::from(factor)).collect();
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let plain = Rotary::new(base).frequencies(2 * pairs);
    let scaling = |original_context| RotaryScaling::Llama3 {
        factor,
        low_freq_factor: LOW,
        high_freq_factor: HIGH,
        original_context,
    };
    let error = |scaling: &RotaryScaling| {
        let scaled = Rotary { base, scaling: *scaling }.frequencies(2 * pairs);
        let found = plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled);
        let errors = found.zip(&factors).map(|(found, factor)| (found / factor - 1.0).abs());
        // Of these NaN is the largest.
        errors.max_by(f64::total_cmp).unwrap_or(0.0)
    };
    let known = Some(ORIGINAL_CONTEXT);
    let contexts = known.into_iter().chain(original_context(&factors, factor, &plain));
    let fits = |error: f64| error <= TOLERANCE;
    let candidates = contexts.map(scaling).map(|scaling| (error(&scaling), scaling));
    let best = candidates.filter(|(error, _)| fits(*error)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, scaling)| scaling)
}

/// What llama.cpp divides the frequency of each pair of columns by, for Llama 3's scaling.
pub(super) fn factors_of(rotary: Rotary, head_dim: usize) -> Vec<f32> {
    let plain = Rotary::new(rotary.base).frequencies(head_dim);
    let scaled = rotary.frequencies(head_dim);
    plain.into_iter().zip(scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect()
}

/// The context for which a pair between the turns of [`LOW`] and [`HIGH`] has its factor.
fn original_context(factors: &[f64], factor: f64, frequencies: &[f64]) -> Option<usize> {
    let mut pairs = factors.iter().zip(frequencies);
    let (between, frequency) = pairs.find(|(found, _)| **found > 1.0 && **found < factor)?;
    let share = (between.recip() - factor.recip()) / (1.0 - factor.recip());
    let context = (LOW + share * (HIGH - LOW)) * TAU / frequency;
    // Not a number that no model has, nor one that is none.
    (context.round() >= 1.0 && context < 1e12).then(|| context.round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors as convert_hf_to_gguf.py computes them, by wavelengths.
    fn factors(base: f64, factor: f64, original: f64, head_dim: usize) -> Vec<f32> {
        let plain = Rotary::new(base).frequencies(head_dim);
        let of = |frequency: f64| {
            let wavelength = TAU / frequency;
            if wavelength < original / 4.0 {
                1.0
            } else if wavelength > original {
                factor
            } else {
                let smooth = (original / wavelength - 1.0) / (4.0 - 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        plain.into_iter().map(|frequency| of(frequency) as f32).collect()
    }

    #[test]
    fn the_scaling_is_found() {
        for (base, factor, original, head_dim) in [
            (500_000.0, 8.0, 8192, 128),
            (500_000.0, 32.0, 8192, 64),
            (500_000.0, 32.0, 16, 8),
            (10_000.0, 4.0, 2048, 64),
        ] {
            let factors = factors(base, factor, original as f64, head_dim);
            let expected = RotaryScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: original,
            };
            assert_eq!(scaling_of(&factors, base), Some(expected), "{original}");
        }
        assert_eq!(scaling_of(&[1.0; 6], 1e4), Some(RotaryScaling::None));
    }

    #[test]
    fn other_factors_are_refused() {
        let mut factors = factors(500_000.0, 8.0, 8192.0, 64);
        assert!(scaling_of(&factors, 10_000.0).is_none());
        factors[20] *= 1.01;
        for broken in [&factors[..], &factors[..30], &[f32::NAN; 4], &[2.0; 4], &[f32::INFINITY; 8]]
        {
            assert_eq!(scaling_of(broken, 500_000.0), None);
        }
    }
}
