//! Fine-tunes a model of Hugging Face's or llama.cpp's on JSON lines, and writes an adapter.
//!
//! ```text
//! cargo run --release --example finetune -- SmolLM2-135M-Instruct chats.jsonl --out adapter
//! cargo run --release --example finetune -- smollm2.gguf chats.jsonl --out adapter \
//!     --base-format q4_1 --recompute --mask-prompt
//! cargo run --release --example chat -- SmolLM2-135M-Instruct --adapter adapter
//! ```
//!
//! A line is a conversation (`{"messages": [...]}`), a `prompt` with its `completion`, or a `text`.
//! Every tenth is held out: the loss on those tells whether what is learned holds for others too.
//! Without `--full` the model stays as it is and low-rank adapters beside its linear layers learn;
//! with `--base-format` it lies on the device in 4 or 8 bits a weight. The adapter is a folder of
//! PEFT's form. Gradients that are not finite change nothing, others are clipped. Ctrl-C ends it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::hugging_face::AdapterExport;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, Lora, Targets};
use evenkeel::run::{self, Ending, Folder, Signals, Source, block_format, say};
use evenkeel::text::{Completions, Examples, LossOn, Supervision};
use evenkeel::train::{AdamW, Clip, Lengths, Schedule, Trainer};
use evenkeel::{BlockFormat, Error, Gpu, Result};

/// Steps between two lines of progress.
const REPORT_EVERY: usize = 10;
/// One line of so many is held out.
const HELD_OUT: usize = 10;
/// Batches that the loss of held-out lines is the mean of, at most; always the same ones.
const EVALUATED: usize = 16;

/// Fine-tunes a model on JSON lines.
#[derive(Debug, Parser)]
#[command(name = "finetune")]
struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.
    model: PathBuf,
    /// Lines with messages, a prompt and a completion, or a text.
    #[arg(value_name = "DATA.jsonl")]
    data: PathBuf,
    /// Folder for the adapter, or with --full for the model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A folder with another tokenizer than the model's own.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Trains all weights instead of an adapter.
    #[arg(long, conflicts_with = "base_format")]
    full: bool,
    /// Rank of the adapters.
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// What adapters count: alpha / rank times their product.
    #[arg(long, value_name = "A", default_value_t = 16.0)]
    alpha: f64,
    /// Keeps the model's own weights in blocks: q4_0, q4_1 or q8_0.
    #[arg(long, value_name = "FORMAT", value_parser = block_format)]
    base_format: Option<BlockFormat>,
    /// Computes activations again in the backward pass instead of keeping them.
    #[arg(long)]
    recompute: bool,
    /// Tokens of a line at most, of those that the model takes; what is longer is cut.
    #[arg(long, value_name = "T", default_value_t = 512)]
    context: usize,
    /// Lines in a batch.
    #[arg(long, value_name = "B", default_value = "4")]
    batch: NonZeroUsize,
    /// Steps.
    #[arg(long, value_name = "N", default_value = "200")]
    steps: NonZeroUsize,
    /// Highest learning rate; 1e-4 for adapters and 1e-5 for all weights if not given.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Learns answers and completions only, and not what they answer.
    #[arg(long)]
    mask_prompt: bool,
    /// Steps between two losses on the lines that are held out.
    #[arg(long, value_name = "N", default_value = "50")]
    evaluate_every: NonZeroUsize,
    /// Seed of the adapter and of the order of lines.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u32,
}

/// Batches of lines, padded to one of a few lengths, so that short ones cost little.
struct Data {
    training: PaddedBatches,
    held_out: PaddedBatches,
    lengths: Lengths,
}

type Tuner = Trainer<LanguageModel>;

fn main() -> ExitCode {
    run::finish(pollster::block_on(finetune(&Options::parse())))
}

async fn finetune(options: &Options) -> Result<Ending> {
    let signals = Signals::listen()?;
    let source = Source::open(&options.model, options.tokenizer.as_deref())?;
    let gpt = model(options, &source)?;
    let data = read(options, &source)?;
    let out = Folder::claim(&options.out, "--out")?;
    let gpu = Gpu::new().await?;
    say!("adapter {}", gpu.info.name);
    let mut trainer = trainer(options, gpt, &data, &gpu).await?;
    let begun = Instant::now();
    trainer.load_weights(&mut source.reader()).await?;
    let report = trainer.report();
    say!(
        "{} parameters are trained and {} are not, in {} MiB on the device; loaded in {:.1} s",
        report.parameters,
        report.frozen_parameters,
        report.total_bytes() >> 20,
        begun.elapsed().as_secs_f64()
    );
    let trained = train(options, &mut trainer, &data, &signals).await;
    // Also after an error: what was learned until then is kept.
    let saved = save(options, &source, &trainer).await;
    let ending = trained?;
    saved.map(|()| say!("wrote {}", out.path().display()))?;
    Ok(ending)
}

/// The adapters beside all linear layers, unless all weights are trained.
fn lora(options: &Options) -> Option<Lora> {
    let lora = Lora::new(options.rank, options.alpha, Targets::AllLinear);
    (!options.full).then_some(lora)
}

fn model(options: &Options, source: &Source) -> Result<Gpt> {
    let (lora, base) = (lora(options), source.config().gpt.clone());
    let &Options { base_format, recompute, .. } = options;
    Gpt::new(GptConfig { lora, base_format, recompute, ..base })
}

/// Lines as ids, cut to the context, some of them held out.
fn read(options: &Options, source: &Source) -> Result<Data> {
    let examples = Examples::read(&options.data)?;
    let is_chat = source.tokenizer.chat_template("default").is_some();
    let supervision = Supervision {
        loss_on: if options.mask_prompt { LossOn::Answers } else { LossOn::All },
        completions: if is_chat { Completions::Chat } else { Completions::Plain },
        context: Some(options.context.min(source.config().gpt.context)),
        ..Supervision::default()
    };
    let (samples, summary) = supervision.encode_all(&source.tokenizer, &examples)?;
    say!("{}: {summary}", examples.name());
    if samples.len() < 2 {
        let reason = "one line is left; give at least two, of which one is held out".to_owned();
        return Err(Error::Data { what: examples.name().to_owned(), reason });
    }
    let period = HELD_OUT.min(samples.len());
    let is_held_out = |(index, _): &(usize, Sequence)| (index + 1).is_multiple_of(period);
    let sequences = samples.iter().map(Sequence::from).enumerate();
    let (held_out, training): (Vec<_>, Vec<_>) = sequences.partition(is_held_out);
    let longest = samples.iter().map(|sample| sample.inputs().len()).max().unwrap_or(1);
    let lengths = Lengths::up_to(longest)?;
    let batches = |part: Vec<(usize, Sequence)>| {
        let sequences = part.into_iter().map(|(_, sequence)| sequence);
        PaddedBatches::new(sequences, lengths.clone(), options.batch.get())
    };
    Ok(Data { training: batches(training)?, held_out: batches(held_out)?, lengths })
}

async fn trainer(options: &Options, gpt: Gpt, data: &Data, gpu: &Gpu) -> Result<Tuner> {
    let (batch, lengths) = (options.batch.get(), data.lengths.clone());
    let model = LanguageModel { gpt, batch, time: lengths.longest() };
    let learning_rate = options.lr.unwrap_or(if options.full { 1e-5 } else { 1e-4 });
    let (warmup, total) = (options.steps.get() / 20, options.steps.get());
    Trainer::builder(model)
        .optimizer(AdamW { learning_rate, weight_decay: 0.0, ..AdamW::default() })
        .clip(Clip::Norm(1.0))
        .schedule(Schedule::Cosine { warmup, total, final_factor: 0.1 })
        .lengths(lengths)
        .seed(options.seed)
        .build(gpu)
        .await
}

/// Submits step after step. The device is only waited for where something is printed.
async fn train(
    options: &Options,
    trainer: &mut Tuner,
    data: &Data,
    signals: &Signals,
) -> Result<Ending> {
    say!("before the first step: held out {:.4}", held_out_loss(trainer, data).await?);
    let (mut begun, mut positions) = (Instant::now(), 0);
    let steps = options.steps.get();
    for (step, batch) in (1..=steps).zip(data.training.batches(options.seed, 0)) {
        trainer.step(&batch).await?;
        positions += options.batch.get() * batch.length().unwrap_or(0);
        let is_last = step == steps || signals.received().is_some();
        if step.is_multiple_of(REPORT_EVERY) || is_last {
            report(trainer, positions, begun).await?;
            (begun, positions) = (Instant::now(), 0);
        }
        if step.is_multiple_of(options.evaluate_every.get()) || is_last {
            say!("step {step}: held out {:.4}", held_out_loss(trainer, data).await?);
            begun = Instant::now();
        }
        if let Some(signal) = signals.received().filter(|_| is_last) {
            return Ok(Ending::Stopped(signal));
        }
    }
    Ok(Ending::Done)
}

/// A line about the steps since the last one.
async fn report(trainer: &mut Tuner, positions: usize, begun: Instant) -> Result<()> {
    let records = trainer.telemetry().await?;
    let Some(last) = records.last() else { return Ok(()) };
    let applied = records.iter().filter(|record| record.applied);
    let losses: Vec<_> = applied.map(|record| f64::from(record.loss)).collect();
    let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let skipped = records.len() - losses.len();
    let skipped = if skipped > 0 { format!(", {skipped} SKIPPED") } else { String::new() };
    say!(
        "step {}: loss {loss:.4}, norm {:.3}, rate {:.2e}, {:.0} tokens/s with padding{skipped}",
        last.step + 1,
        last.gradient_norm,
        last.learning_rate,
        positions as f64 / begun.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn held_out_loss(trainer: &mut Tuner, data: &Data) -> Result<f32> {
    let count = EVALUATED.min(data.held_out.per_epoch());
    let batches: Vec<_> = data.held_out.batches(0, 0).take(count).collect();
    trainer.evaluate_all(&batches).await
}

async fn save(options: &Options, source: &Source, trainer: &Tuner) -> Result<()> {
    let (parameters, out) = (trainer.parameters(), &options.out);
    let Some(lora) = lora(options) else { return source.export().save(parameters, out).await };
    let export = AdapterExport::new(source.config(), lora)?;
    export.base_model(&options.model.to_string_lossy()).save(parameters, out).await
}
