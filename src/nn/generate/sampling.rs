//! How a token is drawn from logits.

use crate::error::{Error, Result};
use crate::reference::generation;

/// How a token is drawn from logits.
///
/// In this order, as transformers does it: the repetition penalty, the temperature, `top_k`, `top_p`,
/// `min_p`. Tokens are ranked by their logit, and among equal ones the lower id comes first. The same
/// seed, text and logits give the same tokens. The device draws with the kernel
/// [`Sample`](crate::kernels::Sample), whose sums are f32; [`draw`](Self::draw) does the same on the
/// host in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits: below 1 sharpens, 0 always takes the most likely token.
    pub temperature: f64,
    /// Draws among this many most likely tokens only; `None` for all.
    pub top_k: Option<usize>,
    /// Draws among the fewest most likely tokens whose probabilities reach this sum, of those that
    /// `top_k` keeps (Holtzman et al. 2019); 1 for all.
    pub top_p: f64,
    /// Draws among tokens at least this many times as probable as the most likely one (Nguyen et al.
    /// 2024); 0 for all.
    pub min_p: f64,
    /// Divides the logits of tokens that the text has, prompt included, where they are positive, and
    /// multiplies them where they are not (Keskar et al. 2019): above 1 against repetition, 1 for
    /// none.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u32,
}

impl Default for Sampling {
    /// Temperature 1, all tokens, no penalty, seed 0: the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The most likely token each time: temperature 0.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty: penalty, .. } = *self;
        let is_normal = (penalty as f32).is_normal() && penalty > 0.0;
        for (setting, value, fits, range) in [
            (
                "temperature",
                temperature,
                (0.0..=f64::MAX).contains(&temperature),
                "finite and not negative",
            ),
            ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1"),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p), "in [0, 1]"),
            ("repetition_penalty", penalty, is_normal, "finite and above 0"),
        ] {
            if !fits {
                return Err(Error::Setting { setting, value: value.to_string(), range });
            }
        }
        if self.top_k == Some(0) {
            let range = "at least 1 token";
            return Err(Error::Setting { setting: "top_k", value: "0".into(), range });
        }
        Ok(())
    }

    /// Draws token `index` of a sequence from its logits; the text has no token that the repetition
    /// penalty could count.
    ///
    /// # Errors
    /// [`Error::Setting`], and [`Error::NonFinite`] for logits that are NaN or Inf.
    ///
    /// # Panics
    /// Without logits.
    pub fn draw(&self, logits: &[f32], index: u32) -> Result<u32> {
        self.draw_after(&[], logits, index)
    }

    /// The same behind a text.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    ///
    /// # Panics
    /// Without logits.
    pub fn draw_after(&self, text: &[u32], logits: &[f32], index: u32) -> Result<u32> {
        self.validate()?;
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(not_finite(index, logits[index]));
        }
        let mut seen = vec![false; logits.len()];
        for &token in text {
            if let Some(seen) = seen.get_mut(token as usize) {
                *seen = true;
            }
        }
        let wide: Vec<_> = logits.iter().map(|&logit| f64::from(logit)).collect();
        Ok(generation::sample(&self.at(index), &wide, |token| seen[token])[0])
    }

    /// The settings of token `index` as the device knows them.
    pub(super) fn at(&self, index: u32) -> generation::Sampling {
        generation::Sampling {
            // Beyond it logits below 1e30 all weigh the same, and f32 has room for what is computed with it.
            temperature: self.temperature.min(1e36),
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            index,
        }
    }
}

/// The error for a logit that no token can be drawn with.
pub(super) fn not_finite(index: usize, value: f32) -> Error {
    Error::NonFinite {
        what: "the model's row of logits".into(),
        index,
        value,
        advice: "its parameters are too large or not finite; sample from an earlier state".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for index in 0..10_000 {
            counts[sampling.draw(logits, index).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 3.0, -40.0];
        for temperature in [1.0f64, 0.5, 2.0] {
            let weights: Vec<_> =
                logits.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let counts = counts(Sampling { temperature, seed: 5, ..Default::default() }, &logits);
            for (&count, weight) in counts.iter().zip(&weights) {
                let p = weight / total;
                let deviation = (10_000.0 * p * (1.0 - p)).sqrt();
                let off = (count as f64 - 10_000.0 * p).abs();
                assert!(off <= 5.0 * deviation + 1.0, "{temperature}: {counts:?}, {weights:?}");
            }
        }
    }

    #[test]
    fn top_k_and_temperature_zero() {
        let logits = [2.0f32, 1.0, 2.0, 1.9];
        let top = counts(Sampling { top_k: Some(2), ..Default::default() }, &logits);
        assert!(top[1] == 0 && top[3] == 0 && top[0] > 4_700 && top[2] > 4_700, "{top:?}");
        let greedy = counts(Sampling { temperature: 0.0, ..Default::default() }, &logits);
        assert_eq!(greedy, [10_000, 0, 0, 0]);
        let sharp = Sampling { temperature: 1e-300, ..Default::default() };
        assert_eq!(sharp.draw(&[1.0, f32::MAX, f32::MIN], 0).unwrap(), 1);
    }

    #[test]
    fn the_seed_decides() {
        let logits = [0.0f32; 50];
        let draw = |seed| {
            let sampling = Sampling { seed, ..Default::default() };
            (0..20).map(|index| sampling.draw(&logits, index).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn bad_settings_and_logits_are_refused() {
        let sampling = Sampling::default();
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            let error = Sampling { temperature, ..sampling }.draw(&[1.0], 0).unwrap_err();
            assert!(error.to_string().starts_with("temperature is "), "{error}");
        }
        let error = Sampling { top_k: Some(0), ..sampling }.draw(&[1.0], 0).unwrap_err();
        assert!(error.to_string().contains("top_k is 0"), "{error}");
        let error = sampling.draw(&[1.0, f32::NAN], 0).unwrap_err().to_string();
        assert!(error.contains("logits") && error.contains("NaN at index 1"), "{error}");
    }
}
