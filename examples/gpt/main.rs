//! Trains a character-level GPT on any adapter, and lets it write.
//!
//! ```text
//! cargo run --release --example gpt
//! cargo run --release --example gpt -- --text shakespeare.txt --preset small --steps 5000
//! cargo run --release --example gpt -- --help
//! ```
//!
//! Without `--text` it learns this repository's own sources and documents, so nothing has to be
//! downloaded. It shows the adapter, the model and its memory; then the loss, the validation loss,
//! the gradient norm and the speed; and ends with a sample of generated text. The folder
//! `target/gpt` then holds a line of JSON per step, a plot of loss and gradient norm, and the
//! sample; `--csv`, `--tensorboard` and `--report` write more. With `--features dashboard` there is
//! `--dashboard`, which shows the run live.
//!
//! Where to read: [`train`] is the loop, [`options`] what can be set and what a preset sets.

mod dashboard;
mod metrics;
mod options;
mod text;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use evenkeel::data::{Corpus, Split, Vocabulary};
use evenkeel::nn::LanguageModel;
use evenkeel::nn::{Generator, Sampling};
use evenkeel::train::{Clip, Schedule, Trainer};
use evenkeel::watch::Report;
use evenkeel::{Gpu, Result};
use metrics::{Files, Monitor, Run};
use options::{Options, Settings};

/// Batches of the validation part that a validation loss is the mean of; always the same ones.
const VALIDATION_BATCHES: u64 = 4;
/// Share of the text that is kept for validation.
const VALIDATION_SHARE: f64 = 0.1;

fn main() -> ExitCode {
    let options = Options::parse();
    match pollster::block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = error.to_string();
            let lines: Vec<_> = error.lines().map(str::trim).collect();
            eprintln!("error: {}", lines.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// Everything that can be wrong with options, text and folders is found before training starts.
async fn run(options: &Options) -> Result<()> {
    let corpus = text::load(options.text.as_deref())?;
    let prompt = text::prompt(options.prompt.as_deref(), &corpus)?;
    let files = Files::prepare(options)?;
    let gpu = Gpu::new().await?;
    let settings = options.settings(gpu.is_software(), corpus.vocabulary().size())?;
    let split = corpus.split(VALIDATION_SHARE, settings.context)?;
    let mut trainer = trainer(&gpu, &settings).await?;
    if !options.quiet {
        describe(&corpus, &settings, &trainer);
    }

    let mut monitor = Monitor::new(&files, options, about(&settings, &trainer))?;
    let trained = train(&mut trainer, &split, &settings, &mut monitor).await;
    // Also after an error: what was measured until then is shown and kept.
    let mut result = trained.and(monitor.finish());
    if result.is_ok() && options.sample > 0 {
        result = sample(&trainer, &prompt, options, corpus.vocabulary(), &files).await;
    }
    files.print(result.is_ok() && options.sample > 0);
    result
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

/// Submits step after step. The device is only waited for where telemetry is read.
async fn train(
    trainer: &mut Trainer<LanguageModel>,
    split: &Split<'_>,
    settings: &Settings,
    monitor: &mut Monitor,
) -> Result<()> {
    let windows = settings.batch * settings.accumulation;
    let mut clock = Clock::new(windows * settings.context);
    for step in 0..settings.steps {
        trainer.step(&split.training.batch(settings.seed, step as u64, windows)).await?;
        let done = step + 1;
        let stop = monitor.poll()?.is_break();
        let evaluate = !stop && (done % settings.evaluate_every == 0 || done == settings.steps);
        if stop || evaluate || done % settings.report_every == 0 {
            let telemetry = trainer.telemetry().await?;
            let tensors = trainer.tensor_telemetry().await?;
            let speed = clock.tokens_per_second(telemetry.len());
            let mut validation = None;
            if evaluate {
                validation = Some(validation_loss(trainer, split, settings).await?.into());
            }
            monitor.report(&telemetry, &tensors, speed, validation)?;
            clock.start();
        }
        if stop {
            break;
        }
    }
    Ok(())
}

/// Times steps, and nothing that happens between [`tokens_per_second`](Self::tokens_per_second)
/// and [`start`](Self::start).
struct Clock {
    tokens_per_step: usize,
    since: Instant,
}

impl Clock {
    fn new(tokens_per_step: usize) -> Self {
        Self { tokens_per_step, since: Instant::now() }
    }

    fn start(&mut self) {
        self.since = Instant::now();
    }

    fn tokens_per_second(&self, steps: usize) -> f64 {
        let elapsed = self.since.elapsed().max(Duration::from_nanos(1));
        (steps * self.tokens_per_step) as f64 / elapsed.as_secs_f64()
    }
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

/// The run in words, for monitor and report.
fn about(settings: &Settings, trainer: &Trainer<LanguageModel>) -> Run {
    let (gpu, sizes, config) = (trainer.gpu(), trainer.report(), settings.gpt.config());
    let title = format!("{}: {} parameters", gpu.info.name, sizes.parameters);
    let clip = if settings.clip > 0.0 { settings.clip.to_string() } else { "off".into() };
    let model = format!(
        "{}: {} layers, {} heads, width {}, context {}",
        settings.name, config.layers, config.heads, config.width, config.context
    );
    let tokens = settings.accumulation * settings.batch * settings.context;
    let mut report = Report::new(&title)
        .fact("adapter", format!("{} ({:?})", gpu.info.name, gpu.info.backend))
        .fact("model", model)
        .fact("tokens in a step", tokens.to_string())
        .fact("learning rate", settings.optimizer.learning_rate.to_string())
        .fact("clip", clip)
        .fact("seed", settings.seed.to_string())
        .baseline("guessing at random", (config.vocabulary as f64).ln());
    if settings.clip > 0.0 {
        report = report.threshold(settings.clip.into());
    }
    Run { title, steps: settings.steps, warmup: settings.warmup, report }
}

/// Writes text token by token as it comes, and the whole of it to a file.
async fn sample(
    trainer: &Trainer<LanguageModel>,
    prompt: &[u32],
    options: &Options,
    vocabulary: &Vocabulary,
    files: &Files,
) -> Result<()> {
    let generator =
        Generator::new(trainer.gpu(), trainer.parameters(), &trainer.model().gpt).await?;
    let Options { temperature, top_k, seed, .. } = *options;
    let sampling = Sampling { temperature, top_k, seed };
    let mut written = vocabulary.bytes(prompt);
    let mut out = std::io::stdout();
    // A closed pipe must not cost the file.
    let mut show = |bytes: &[u8]| drop(out.write_all(bytes).and_then(|()| out.flush()));
    show(b"\n--- sample ---\n");
    show(&written);
    let on_token = |token| {
        let bytes = vocabulary.bytes(&[token]);
        show(&bytes);
        written.extend(bytes);
    };
    let generated = generator.generate(prompt, options.sample, &sampling, on_token).await;
    show(b"\n--- end ---\n");
    files.write_sample(&written)?;
    generated.map(drop)
}

fn describe(corpus: &Corpus, settings: &Settings, trainer: &Trainer<LanguageModel>) {
    let (gpu, report, config) = (trainer.gpu(), trainer.report(), settings.gpt.config());
    let software = if gpu.is_software() { "software" } else { "hardware" };
    println!("adapter  {} ({:?}, {software})", gpu.info.name, gpu.info.backend);
    let unit = match corpus.vocabulary() {
        Vocabulary::Characters(characters) => format!("{} characters", characters.len()),
        Vocabulary::Bytes => "256 bytes (the text is not UTF-8)".into(),
    };
    let (name, tokens) = (corpus.name(), corpus.tokens().len());
    println!("text     {name}: {tokens} tokens, vocabulary of {unit}");
    println!(
        "model    {}: {} layers, {} heads, width {}, context {}; {} parameters in {} tensors",
        settings.name,
        config.layers,
        config.heads,
        config.width,
        config.context,
        report.parameters,
        report.tensors
    );
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!(
        "memory   {}: parameters {}, gradients {}, moments {}, activations {}",
        mib(report.total_bytes()),
        mib(report.parameter_bytes),
        mib(report.gradient_bytes),
        mib(report.moment_bytes),
        mib(report.activation_bytes)
    );
    let microbatches = settings.accumulation;
    println!(
        "step     {} tokens ({microbatches} x {} x {}); {} dispatches in one submit",
        microbatches * settings.batch * settings.context,
        settings.batch,
        settings.context,
        microbatches * report.model_dispatches + report.update_dispatches
    );
    println!(
        "run      {} steps, learning rate {} (warm-up {}, then cosine), clip {}, seed {}",
        settings.steps,
        settings.optimizer.learning_rate,
        settings.warmup,
        if settings.clip > 0.0 { settings.clip.to_string() } else { "off".into() },
        settings.seed
    );
}
