//! The settings of a run: a preset with what was given in its place, checked.

use super::Options;
use super::preset::{Preset, Sizes};
use crate::error::{Error, Result};
use crate::kernel::Precision;
use crate::nn::Sampling;
use crate::nn::{Gpt, GptConfig};
use crate::train::{AdamW, Optimizer};

/// A run, checked.
#[derive(Debug)]
pub struct Settings {
    /// Name of the preset.
    pub name: &'static str,
    /// The model.
    pub gpt: Gpt,
    /// With the highest learning rate.
    pub optimizer: AdamW,
    /// Steps of the whole run.
    pub steps: usize,
    /// Steps in which the learning rate rises.
    pub warmup: usize,
    /// Sequences in a microbatch.
    pub batch: usize,
    /// Microbatches in a step.
    pub accumulation: usize,
    /// Tokens in a sequence.
    pub context: usize,
    /// Largest norm of the gradients; 0 for none.
    pub clip: f32,
    /// Storage of activations.
    pub precision: Precision,
    /// Steps between two looks at every tensor; 0 for none.
    pub watch_every: u32,
    /// Of weights, batches and sample.
    pub seed: u32,
    /// Steps between two readings of telemetry.
    pub report_every: usize,
    /// Steps between two validation losses.
    pub evaluate_every: usize,
    /// Steps between two saves; 0 for none but the first and the last.
    pub save_every: usize,
    /// Tokens to generate at the end.
    pub sample: usize,
    /// How they are drawn.
    pub sampling: Sampling,
}

impl Options {
    /// The preset with what was given in its place, checked; and all options as they now are.
    ///
    /// # Errors
    /// [`Error::Setting`] names the option.
    pub(super) fn settings(&self, software: bool, vocabulary: usize) -> Result<(Settings, Self)> {
        let default = if software { Preset::Tiny } else { Preset::Small };
        let chosen = self.preset.unwrap_or(default);
        let preset = chosen.sizes();
        let steps = self.steps.unwrap_or(preset.steps);
        let batch = self.batch.unwrap_or(preset.batch);
        let accumulation = self.accumulation.unwrap_or(preset.accumulation);
        let context = self.context.unwrap_or(preset.context);
        let tenth = (steps / 10).max(1);
        let evaluate_every = self.evaluate_every.unwrap_or(tenth);
        let report_every = self.report_every.unwrap_or(10);
        for (setting, value) in [
            ("--steps", steps),
            ("--batch", batch),
            ("--accumulation", accumulation),
            ("--context", context),
            ("--report-every", report_every),
            ("--evaluate-every", evaluate_every),
        ] {
            // The schedule and the telemetry ring have an entry per step.
            let range = "at least 1 and at most 10 million";
            check(setting, value, (1..=10_000_000).contains(&value), range)?;
        }
        let learning_rate = self.lr.unwrap_or(preset.learning_rate);
        let finite = learning_rate.is_finite() && learning_rate > 0.0;
        check("--lr", learning_rate, finite, "finite and above 0")?;
        let clip = self.clip.unwrap_or(1.0);
        let allowed = clip.is_finite() && clip >= 0.0;
        check("--clip", clip, allowed, "finite and above 0, or 0 for none")?;
        let temperature = self.temperature.unwrap_or(0.8);
        let allowed = temperature.is_finite() && temperature >= 0.0;
        check("--temperature", temperature, allowed, "finite and not negative")?;
        check("--top-k", 0, self.top_k != Some(0), "at least 1")?;
        let seed = self.seed.unwrap_or(0);
        let weight_decay = self.weight_decay.unwrap_or(0.1);
        let betas = [0.9, 0.99];
        let optimizer = AdamW { learning_rate, betas, weight_decay, ..AdamW::default() };
        optimizer.validate()?;

        let settings = Settings {
            name: preset.name,
            gpt: Gpt::new(self.config(&preset, vocabulary, context)?)?,
            optimizer,
            steps,
            warmup: (steps / 20).clamp(1, 200).min(steps),
            batch,
            accumulation,
            context,
            clip,
            precision: match self.precision.as_deref() {
                Some("f16") => Precision::F16,
                Some("bf16") => Precision::Bf16,
                _ => Precision::F32,
            },
            // For the report's heat strip and TensorBoard's charts.
            watch_every: match (&self.report, &self.tensorboard) {
                (None, None) => 0,
                _ => report_every as u32,
            },
            seed,
            report_every,
            evaluate_every,
            save_every: self.save_every.unwrap_or(tenth),
            sample: self.sample.unwrap_or(500),
            sampling: Sampling { temperature, top_k: self.top_k, seed, ..Sampling::default() },
        };
        let options = self.resolved(chosen, &settings);
        Ok((settings, options))
    }

    /// Says what the preset and the defaults said, for a run that goes on elsewhere or in a later
    /// version.
    fn resolved(&self, preset: Preset, settings: &Settings) -> Self {
        let config = settings.gpt.config();
        Self {
            preset: Some(preset),
            steps: Some(settings.steps),
            batch: Some(settings.batch),
            accumulation: Some(settings.accumulation),
            context: Some(settings.context),
            layers: Some(config.layers),
            heads: Some(config.heads),
            width: Some(config.width),
            dropout: Some(config.dropout),
            kv_heads: self.llama.then_some(config.kv_heads),
            lr: Some(settings.optimizer.learning_rate),
            clip: Some(settings.clip),
            weight_decay: Some(settings.optimizer.weight_decay),
            seed: Some(settings.seed),
            report_every: Some(settings.report_every),
            evaluate_every: Some(settings.evaluate_every),
            save_every: Some(settings.save_every),
            ..self.clone()
        }
    }

    fn config(&self, preset: &Sizes, vocabulary: usize, context: usize) -> Result<GptConfig> {
        let layers = self.layers.unwrap_or(preset.layers);
        let heads = self.heads.unwrap_or(preset.heads);
        let width = self.width.unwrap_or(preset.width);
        let dropout = self.dropout.unwrap_or(preset.dropout);
        for (setting, value) in [("--layers", layers), ("--heads", heads), ("--width", width)] {
            check(setting, value, value > 0, "at least 1")?;
        }
        let together = format!("{heads} with a --width of {width}");
        check("--heads", together, width.is_multiple_of(heads), "a divisor of the width")?;
        check("--dropout", dropout, (0.0..1.0).contains(&dropout), "in [0, 1)")?;
        let half = if heads.is_multiple_of(2) { heads / 2 } else { heads };
        let kv_heads = self.kv_heads.unwrap_or(half);
        let divides = kv_heads > 0 && heads.is_multiple_of(kv_heads);
        let together = format!("{kv_heads} with {heads} --heads");
        check("--kv-heads", together, divides, "a divisor of the heads")?;
        let config = if self.llama {
            GptConfig::llama(vocabulary, context, layers, [heads, kv_heads], width)
        } else {
            GptConfig::gpt2(vocabulary, context, layers, heads, width)
        };
        Ok(GptConfig { dropout, ..config })
    }
}

fn check(
    setting: &'static str,
    value: impl ToString,
    allowed: bool,
    range: &'static str,
) -> Result<()> {
    if allowed { Ok(()) } else { Err(Error::Setting { setting, value: value.to_string(), range }) }
}
