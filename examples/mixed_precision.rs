//! The same GPT trained with its activations and compute weights in f32, f16 and bf16.
//!
//! ```text
//! cargo run --release --example mixed_precision
//! cargo run --release --example mixed_precision -- --steps 1000 --width 128
//! ```
//!
//! Every run starts from the same weights and sees the same batches of this project's own
//! documents. Master weights, moments and parameter gradients are f32 throughout; f16 scales its
//! loss, starting so high that the first steps overflow and are skipped on the device. The table
//! compares the validation losses with that of f32, and shows bytes and speed; the program fails
//! if a loss is more than 2 % higher.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use evenkeel::data::{Corpus, Split};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::run::{finish, say};
use evenkeel::train::{AdamW, Clip, DynamicLossScale, LossScale, Schedule, Trainer};
use evenkeel::{Error, Gpu, Precision, Result};

const TEXT: &str = concat!(include_str!("../README.md"), include_str!("../ARCHITECTURE.md"));
const HEADS: usize = 4;
/// Batches of the validation part that a validation loss is the mean of.
const VALIDATION_BATCHES: u64 = 8;
/// A loss may exceed that of f32 by this share.
const ALLOWED: f32 = 0.02;

/// Trains one GPT in three storage precisions and compares.
#[derive(Debug, Parser)]
struct Options {
    /// Steps of each run.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Width of the model; a multiple of 16.
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// Layers.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Tokens of context.
    #[arg(long, default_value_t = 32)]
    context: usize,
    /// Sequences of a batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Seed of weights and batches.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

/// What a run came to.
struct Outcome {
    precision: Precision,
    loss: f32,
    skipped: u32,
    /// Lowest and highest loss scale.
    scales: [f32; 2],
    tokens_per_second: f64,
    activation_bytes: u64,
    weight_bytes: u64,
}

fn main() -> ExitCode {
    finish(pollster::block_on(run(&Options::parse())))
}

/// Whether all losses are close to that of f32.
async fn run(options: &Options) -> Result<bool> {
    if options.steps == 0 {
        let value = "0".into();
        return Err(Error::Setting { setting: "--steps", value, range: "at least 1" });
    }
    let corpus = Corpus::new("this project's documents", TEXT.as_bytes())?;
    let split = corpus.split(0.1, options.context)?;
    let gpu = Gpu::new().await?;
    let kind = if gpu.is_software() { "software" } else { "hardware" };
    say!("adapter  {} ({:?}, {kind})", gpu.info.name, gpu.info.backend);
    let size = corpus.vocabulary().size();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for precision in Precision::ALL {
        say!("training in {precision}: {} steps", options.steps);
        outcomes.push(train(&gpu, options, size, &split, precision).await?);
    }
    let single = &outcomes[0];
    say!("\nstorage  loss    to f32   skipped  loss scale          speed  activations  weights");
    for outcome in &outcomes {
        say!(
            "{:<7}  {:.4}  {:+.2} %  {:>7}  {:>8} to {:<8}  {:>4.2}x  {:>7} KiB  {:>5} KiB",
            outcome.precision.to_string(),
            outcome.loss,
            100.0 * (outcome.loss / single.loss - 1.0),
            outcome.skipped,
            outcome.scales[0],
            outcome.scales[1],
            outcome.tokens_per_second / single.tokens_per_second,
            outcome.activation_bytes >> 10,
            outcome.weight_bytes >> 10,
        );
    }
    say!("weights: f32 masters, and in half precision a copy of them to compute with");
    let close = |outcome: &Outcome| outcome.loss <= single.loss * (1.0 + ALLOWED);
    Ok(outcomes.iter().all(close))
}

/// f16 only: high enough to overflow at first.
fn loss_scale(precision: Precision) -> LossScale {
    match precision {
        Precision::F16 => LossScale::Dynamic(DynamicLossScale {
            init: 2f32.powi(24),
            interval: 50,
            ..DynamicLossScale::default()
        }),
        Precision::F32 | Precision::Bf16 => LossScale::Static(1.0),
    }
}

async fn train(
    gpu: &Gpu,
    options: &Options,
    vocabulary: usize,
    split: &Split<'_>,
    precision: Precision,
) -> Result<Outcome> {
    let &Options { steps, width, layers, context, batch, seed } = options;
    let gpt = Gpt::new(GptConfig::gpt2(vocabulary, context, layers, HEADS, width))?;
    let mut trainer = Trainer::builder(LanguageModel { gpt, batch, time: context })
        .precision(precision)
        .loss_scale(loss_scale(precision))
        .optimizer(AdamW { learning_rate: 3e-3, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: steps / 20, total: steps, final_factor: 0.1 })
        .clip(Clip::Norm(1.0))
        .seed(seed)
        .telemetry_capacity(u32::try_from(steps).unwrap_or(u32::MAX))
        .build(gpu)
        .await?;
    let start = Instant::now();
    for step in 0..steps as u64 {
        trainer.step(&split.training.batch(seed, step, batch)).await?;
    }
    let records = trainer.telemetry().await?;
    let seconds = start.elapsed().as_secs_f64();

    let batches = (0..VALIDATION_BATCHES).map(|index| split.validation.batch(seed, index, batch));
    let loss = trainer.evaluate_all(&batches.collect::<Vec<_>>()).await?;
    let scales = records.iter().map(|record| record.loss_scale);
    let report = trainer.report();
    Ok(Outcome {
        precision,
        loss,
        skipped: records.last().map_or(0, |record| record.skipped_total),
        scales: [scales.clone().fold(f32::MAX, f32::min), scales.fold(0.0, f32::max)],
        tokens_per_second: (steps * batch * context) as f64 / seconds,
        activation_bytes: report.activation_bytes,
        weight_bytes: report.parameter_bytes + report.copy_bytes,
    })
}
