//! A small transformer learns a text character by character, and then writes some: a training
//! program in one file, to copy and to begin with.
//!
//! ```text
//! cargo run --release --example gpt
//! cargo run --release --example gpt -- --text shakespeare.txt --steps 5000
//! ```
//!
//! `evenkeel train` is the program with all else around it: presets, tokenizers, saves, records.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::data::Corpus;
use evenkeel::nn::{Generator, Gpt, GptConfig, LanguageModel, Sampling};
use evenkeel::train::{AdamW, Clip, Schedule, Trainer};
use evenkeel::{Gpu, Result};

/// Tokens that the model sees.
const CONTEXT: usize = 64;
/// Windows of the text in a step.
const BATCH: usize = 8;
/// Steps between two lines of progress.
const REPORT_EVERY: usize = 50;
/// Of the weights, the batches and the sample.
const SEED: u32 = 0;

/// Learns a text, and writes some.
#[derive(Debug, Parser)]
#[command(name = "gpt")]
struct Options {
    /// The text; a document of this repository if not given.
    #[arg(long, value_name = "FILE")]
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md"))]
    text: PathBuf,
    /// Steps.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: usize,
}

fn main() -> ExitCode {
    match evenkeel::block_on(learn(&Options::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn learn(options: &Options) -> Result<()> {
    let gpu = Gpu::new().await?;
    let corpus = Corpus::read(&options.text)?;
    // The last tenth is measured on and never learned.
    let split = corpus.split(0.1, CONTEXT)?;
    let vocabulary = corpus.vocabulary();

    // Layers, heads, width.
    let gpt = Gpt::new(GptConfig::gpt2(vocabulary.size(), CONTEXT, 2, 4, 64))?;
    let total = options.steps;
    let mut trainer = Trainer::builder(LanguageModel { gpt, batch: BATCH, time: CONTEXT })
        .optimizer(AdamW { learning_rate: 4e-3, betas: [0.9, 0.99], ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: total / 20, total, final_factor: 0.1 })
        .clip(Clip::Norm(1.0))
        .seed(SEED)
        .build(&gpu)
        .await?;
    let parameters = trainer.report().parameters;
    println!("{parameters} parameters learn {} on {}", corpus.name(), gpu.info.name);

    let held_out = |index| split.validation.batch(SEED, index, BATCH);
    let validation: Vec<_> = (0..4).map(held_out).collect();
    for step in 1..=total {
        // A batch follows from seed and step. Nothing waits for the device until something is read.
        trainer.step(&split.training.batch(SEED, step as u64, BATCH)).await?;
        if step.is_multiple_of(REPORT_EVERY) || step == total {
            let records = trainer.telemetry().await?;
            // A step with a NaN or Inf in its loss or gradients changes nothing.
            let skipped = records.iter().filter(|record| !record.applied).count();
            let Some(last) = records.last() else { continue };
            println!(
                "step {step}: loss {:.3}, held out {:.3}, gradient norm {:.2}, {skipped} skipped",
                last.loss,
                trainer.evaluate_all(&validation).await?,
                last.gradient_norm
            );
        }
    }

    let generator = Generator::new(&gpu, trainer.parameters(), &trainer.model().gpt).await?;
    let sampling = Sampling { temperature: 0.8, seed: SEED, ..Sampling::default() };
    let mut generation = generator.start(&[(&corpus.tokens()[..8], sampling)]).await?;
    for _ in 0..300 {
        generation.next().await?;
    }
    println!("\n{}", vocabulary.decode(generation.text(0)));
    Ok(())
}
