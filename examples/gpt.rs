//! Trains a character-level GPT on any adapter, and lets it write.
//!
//! ```text
//! cargo run --release --example gpt
//! cargo run --release --example gpt -- --text shakespeare.txt --preset small --steps 5000
//! cargo run --release --example gpt -- --resume
//! cargo run --release --example gpt -- --help
//! ```
//!
//! Without `--text` it learns this repository's own sources and documents, so nothing has to be
//! downloaded. It shows the adapter, the model and its memory; then the loss, the validation loss,
//! the gradient norm and the speed; and ends with a sample of generated text. The folder
//! `target/gpt` then holds the weights and all else that it takes to go on, a line of JSON per step,
//! a plot of loss and gradient norm, and the sample; `--csv`, `--tensorboard` and `--report` write
//! more. `--profile` prints what one step takes on the device, by kernel and by module, and writes
//! it as a timeline where it is given a file. With `--features dashboard` there is `--dashboard`, which shows the run live. Ctrl-C saves
//! and ends the run; `--resume` goes on with it.
//!
//! What surrounds the training is [`evenkeel::run`], for programs of your own to use; here is what
//! is left.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::data::Split;
use evenkeel::nn::Generator;
use evenkeel::nn::LanguageModel;
use evenkeel::run::{self, Ending, Options, Run, Settings};
use evenkeel::train::{Clip, Schedule, Trainer};
use evenkeel::{Gpu, Result};

/// Batches of the validation part that a validation loss is the mean of; always the same ones.
const VALIDATION_BATCHES: u64 = 4;
/// Share of the text that is kept for validation.
const VALIDATION_SHARE: f64 = 0.1;

fn main() -> ExitCode {
    run::finish(pollster::block_on(learn(&Options::parse())))
}

/// Everything that can be wrong with options, text and folders is found before training starts.
async fn learn(options: &Options) -> Result<Ending> {
    let mut run = Run::open(options, Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let gpu = Gpu::new().await?;
    let settings = run.settings(&gpu)?;
    let corpus = run.corpus().clone();
    let split = corpus.split(VALIDATION_SHARE, settings.context)?;
    let mut trainer = trainer(&gpu, &settings).await?;
    if !options.quiet {
        run::describe(&corpus, &settings, &trainer);
    }

    run.begin(&mut trainer, &settings).await?;
    let trained = train(&mut trainer, &split, &settings, &mut run).await;
    // Also after an error: what was learned and measured until then is kept.
    let mut ending = run.end(&mut trainer, trained).await;
    let sampled = settings.sample > 0 && matches!(ending, Ok(Ending::Done));
    if sampled {
        ending = sample(&trainer, &settings, &run).await;
    }
    run.print_outputs(sampled && ending.is_ok());
    ending
}

async fn trainer(gpu: &Gpu, settings: &Settings) -> Result<Trainer<LanguageModel>> {
    let model =
        LanguageModel { gpt: settings.gpt.clone(), batch: settings.batch, time: settings.context };
    let (warmup, total) = (settings.warmup, settings.steps);
    Trainer::builder(model)
        .optimizer(settings.optimizer)
        .clip(if settings.clip > 0.0 { Clip::Norm(settings.clip) } else { Clip::None })
        .schedule(Schedule::Cosine { warmup, total, final_factor: 0.1 })
        .precision(settings.precision)
        .watch_tensors(settings.watch_every)
        .accumulation(settings.accumulation)
        .seed(settings.seed)
        .telemetry_capacity(settings.report_every as u32)
        .build(gpu)
        .await
}

/// Submits step after step. The device is only waited for where telemetry is read and where the
/// run is saved.
async fn train(
    trainer: &mut Trainer<LanguageModel>,
    split: &Split<'_>,
    settings: &Settings,
    run: &mut Run,
) -> Result<()> {
    let windows = settings.batch * settings.accumulation;
    while run.goes_on(trainer.steps()) {
        let batch = split.training.batch(settings.seed, trainer.steps(), windows);
        run.step(trainer, &batch).await?;
        let validate = async |trainer: &mut _| validation_loss(trainer, split, settings).await;
        run.after_step(trainer, validate).await?;
    }
    Ok(())
}

async fn validation_loss(
    trainer: &mut Trainer<LanguageModel>,
    split: &Split<'_>,
    settings: &Settings,
) -> Result<f32> {
    let batch = |index| split.validation.batch(settings.seed, index, settings.batch);
    let batches: Vec<_> = (0..VALIDATION_BATCHES).map(batch).collect();
    trainer.evaluate_all(&batches).await
}

/// Writes text token by token as it comes, and the whole of it to a file.
async fn sample(
    trainer: &Trainer<LanguageModel>,
    settings: &Settings,
    run: &Run,
) -> Result<Ending> {
    let generator =
        Generator::new(trainer.gpu(), trainer.parameters(), &trainer.model().gpt).await?;
    let vocabulary = run.corpus().vocabulary();
    let mut tokens = run.prompt().to_vec();
    let mut written = vocabulary.bytes(&tokens);
    run::print_bytes(b"\n--- sample ---\n");
    run::print_bytes(&written);
    let mut generated = Ok(());
    for index in 0..settings.sample {
        if run.signal().is_some() {
            break;
        }
        let logits = generator.logits(&tokens).await;
        match logits.and_then(|logits| settings.sampling.draw(&logits, index as u32)) {
            Ok(token) => tokens.push(token),
            Err(error) => {
                generated = Err(error);
                break;
            }
        }
        let bytes = vocabulary.bytes(&tokens[tokens.len() - 1..]);
        run::print_bytes(&bytes);
        written.extend(bytes);
    }
    run::print_bytes(b"\n--- end ---\n");
    run.write_sample(&written)?;
    generated.map(|()| run.signal().map_or(Ending::Done, Ending::Stopped))
}
