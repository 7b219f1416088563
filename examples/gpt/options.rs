//! What can be set, what presets set, and the check of both together.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use evenkeel::nn::{Gpt, GptConfig};
use evenkeel::train::{AdamW, Optimizer};
use evenkeel::{Error, Precision, Result};

/// Trains a character-level GPT, then samples from it.
#[derive(Debug, Parser)]
#[command(name = "gpt", args_override_self = true)]
pub struct Options {
    /// Text to learn; the sources and documents of this repository if not given.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Sizes of model and run; tiny on a software adapter, small on a GPU if not given.
    #[arg(long)]
    preset: Option<Preset>,
    /// Steps.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Sequences in a microbatch.
    #[arg(long, value_name = "B")]
    batch: Option<usize>,
    /// Microbatches that make a step, as one large batch.
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// Tokens in a sequence.
    #[arg(long, value_name = "T")]
    context: Option<usize>,
    /// Transformer blocks.
    #[arg(long, value_name = "L")]
    layers: Option<usize>,
    /// Attention heads.
    #[arg(long, value_name = "H")]
    heads: Option<usize>,
    /// Columns of the residual stream.
    #[arg(long, value_name = "D")]
    width: Option<usize>,
    /// Probability of dropout.
    #[arg(long, allow_negative_numbers = true, value_name = "P")]
    dropout: Option<f32>,
    /// Llama's form: rotary positions, RMSNorm, SwiGLU, grouped-query attention.
    #[arg(long)]
    llama: bool,
    /// Key and value heads; half of the heads if not given.
    #[arg(long, value_name = "H", requires = "llama")]
    kv_heads: Option<usize>,
    /// Highest learning rate, after the warm-up.
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    lr: Option<f64>,
    /// Storage of activations and compute weights; f16 brings a dynamic loss scale.
    #[arg(long, value_name = "P", default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    precision: String,
    /// Largest norm of the gradients; 0 for no clipping.
    #[arg(long, allow_negative_numbers = true, value_name = "X", default_value_t = 1.0)]
    clip: f32,
    /// Weight decay of matrices.
    #[arg(long, allow_negative_numbers = true, value_name = "X", default_value_t = 0.1)]
    weight_decay: f64,
    /// Seed of the parameters, the batches and the sample.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u32,
    /// Steps between two readings of the telemetry.
    #[arg(long, value_name = "N", default_value_t = 10)]
    report_every: usize,
    /// Steps between two validation losses; a tenth of the run if not given.
    #[arg(long, value_name = "N")]
    evaluate_every: Option<usize>,
    /// Folder for metrics, plot and sample.
    #[arg(long, value_name = "DIR", default_value = "target/gpt")]
    pub out: PathBuf,
    /// One line of JSON per step; DIR/metrics.jsonl if not given.
    #[arg(long, value_name = "FILE.jsonl")]
    pub metrics: Option<PathBuf>,
    /// The same as a table.
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    /// An event file for TensorBoard in this folder.
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// The run as one page, written at its end.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Live charts in the terminal, where q stops the run; needs --features dashboard.
    #[arg(long)]
    pub dashboard: bool,
    /// Tokens to generate at the end.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub sample: usize,
    /// What the sample starts with; the beginning of the text if not given.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Below 1 the sample keeps to what is likely; 0 always takes the most likely token.
    #[arg(long, allow_negative_numbers = true, value_name = "X", default_value_t = 0.8)]
    pub temperature: f64,
    /// Samples among the N most likely tokens only.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Shows no description and no progress.
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    /// A few minutes on a CPU.
    Tiny,
    /// A few minutes on a GPU.
    Small,
    /// GPT-2's smallest model, over characters.
    Gpt2,
}

/// The sizes of a preset.
struct Sizes {
    name: &'static str,
    steps: usize,
    batch: usize,
    accumulation: usize,
    context: usize,
    layers: usize,
    heads: usize,
    width: usize,
    dropout: f32,
    learning_rate: f64,
}

impl Preset {
    fn sizes(self) -> Sizes {
        match self {
            Self::Tiny => Sizes {
                name: "tiny",
                steps: 2000,
                batch: 8,
                accumulation: 1,
                context: 64,
                layers: 2,
                heads: 4,
                width: 64,
                dropout: 0.0,
                learning_rate: 4e-3,
            },
            Self::Small => Sizes {
                name: "small",
                steps: 3000,
                batch: 32,
                accumulation: 1,
                context: 256,
                layers: 6,
                heads: 6,
                width: 384,
                dropout: 0.1,
                learning_rate: 1e-3,
            },
            Self::Gpt2 => Sizes {
                name: "gpt2",
                steps: 5000,
                batch: 8,
                accumulation: 4,
                context: 1024,
                layers: 12,
                heads: 12,
                width: 768,
                dropout: 0.1,
                learning_rate: 6e-4,
            },
        }
    }
}

/// A run, checked.
pub struct Settings {
    /// Name of the preset.
    pub name: &'static str,
    pub gpt: Gpt,
    pub optimizer: AdamW,
    pub steps: usize,
    pub warmup: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub context: usize,
    /// 0 for none.
    pub clip: f32,
    pub precision: Precision,
    /// Steps between two looks at every tensor; 0 for none.
    pub watch_every: u32,
    pub seed: u32,
    pub report_every: usize,
    pub evaluate_every: usize,
}

impl Options {
    /// The preset with what was given in its place.
    pub fn settings(&self, software: bool, vocabulary: usize) -> Result<Settings> {
        let default = if software { Preset::Tiny } else { Preset::Small };
        let preset = self.preset.unwrap_or(default).sizes();
        let steps = self.steps.unwrap_or(preset.steps);
        let batch = self.batch.unwrap_or(preset.batch);
        let accumulation = self.accumulation.unwrap_or(preset.accumulation);
        let context = self.context.unwrap_or(preset.context);
        let evaluate_every = self.evaluate_every.unwrap_or((steps / 10).max(1));
        for (setting, value) in [
            ("--steps", steps),
            ("--batch", batch),
            ("--accumulation", accumulation),
            ("--context", context),
            ("--report-every", self.report_every),
            ("--evaluate-every", evaluate_every),
        ] {
            // The schedule and the telemetry ring have an entry per step.
            let range = "at least 1 and at most 10 million";
            check(setting, value, (1..=10_000_000).contains(&value), range)?;
        }
        let learning_rate = self.lr.unwrap_or(preset.learning_rate);
        let finite = learning_rate.is_finite() && learning_rate > 0.0;
        check("--lr", learning_rate, finite, "finite and above 0")?;
        let clip = self.clip.is_finite() && self.clip >= 0.0;
        check("--clip", self.clip, clip, "finite and above 0, or 0 for none")?;
        let temperature = self.temperature.is_finite() && self.temperature >= 0.0;
        check("--temperature", self.temperature, temperature, "finite and not negative")?;
        check("--top-k", 0, self.top_k != Some(0), "at least 1")?;
        let betas = [0.9, 0.99];
        let optimizer =
            AdamW { learning_rate, betas, weight_decay: self.weight_decay, ..AdamW::default() };
        optimizer.validate()?;

        Ok(Settings {
            name: preset.name,
            gpt: Gpt::new(self.config(&preset, vocabulary, context)?)?,
            optimizer,
            steps,
            warmup: (steps / 20).clamp(1, 200).min(steps),
            batch,
            accumulation,
            context,
            clip: self.clip,
            precision: match &*self.precision {
                "f16" => Precision::F16,
                "bf16" => Precision::Bf16,
                _ => Precision::F32,
            },
            // For the report's heat strip and TensorBoard's charts.
            watch_every: match (&self.report, &self.tensorboard) {
                (None, None) => 0,
                _ => self.report_every as u32,
            },
            seed: self.seed,
            report_every: self.report_every,
            evaluate_every,
        })
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
