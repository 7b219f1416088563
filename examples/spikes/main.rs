//! The same training run three times: clean, with injected faults, and with the same faults and
//! policies against them.
//!
//! ```text
//! cargo run --release --example spikes
//! cargo run --release --example spikes -- --steps 1000 --out docs/spikes.svg
//! ```
//!
//! The faults are batches of random tokens, and steps at a thousand times the learning rate. Without
//! clip and policies the run is left with the weights that such a step made. With a [`SpikeGuard`] and a
//! [`SnapshotRing`] the device skips what it can and goes back to a snapshot where it must; the host
//! learns of it from telemetry, afterwards. Each run goes on until as many steps were *applied*, so
//! what was skipped or undone is made up for.
//!
//! The program prints what was injected and what was done, draws the three losses, and fails if a
//! fault was neither skipped nor undone, if a run gave up, or if the guarded one ends more than 2 % above
//! the clean one.

mod plot;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::data::{Corpus, Split};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::reference::random::threefry4x32;
use evenkeel::run::{finish, say};
use evenkeel::step::Reason;
use evenkeel::train::stability::{Reaction, SnapshotRing, SpikeGuard};
use evenkeel::train::{AdamW, Batch, Clip, Schedule, Telemetry, Trainer};
use evenkeel::{Error, Gpu, Result};

const TEXT: &str = concat!(include_str!("../../README.md"), include_str!("../../ARCHITECTURE.md"));
const HEADS: usize = 4;
/// Batches of the validation part that a validation loss is the mean of.
const VALIDATION_BATCHES: u64 = 8;
/// The guarded loss may exceed the clean one by this share.
const ALLOWED: f32 = 0.02;
/// Steps between two looks at telemetry.
const CHUNK: u64 = 20;
/// Samples that the guard judges by, in a run long enough.
const WINDOW: usize = 64;

/// Trains with and without faults, with and without policies.
#[derive(Debug, Parser)]
struct Options {
    /// Applied steps of each run.
    #[arg(long, default_value_t = 400)]
    steps: usize,
    /// Width of the model; a multiple of 16.
    #[arg(long, default_value_t = 48)]
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
    /// Seed of weights, batches and faults.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Where the plot goes.
    #[arg(long, default_value = "target/spikes.svg")]
    out: PathBuf,
}

/// What is done to a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Its tokens and targets are drawn at random.
    RandomBatch,
    /// Its learning rate is a thousand times too high.
    LearningRate,
}

/// A run that has ended.
struct Outcome {
    records: Vec<Telemetry>,
    validation: f32,
    gave_up: bool,
}

fn main() -> ExitCode {
    finish(pollster::block_on(run(&Options::parse())))
}

/// Faults by step. The first comes when the loss no longer falls fast, see [`window`].
fn faults(steps: usize) -> BTreeMap<u64, Fault> {
    let at = |share: f64| (share * steps as f64) as u64;
    let random = [0.4, 0.7].map(|share| (at(share), Fault::RandomBatch));
    let rate = [0.5, 0.8].map(|share| (at(share), Fault::LearningRate));
    random.into_iter().chain(rate).collect()
}

/// Samples that the guard judges by. In a short run fewer than [`WINDOW`], so that those before the
/// first fault are of steps that were like it, not of the fall from the first loss: beside that, a
/// batch of noise is no spike.
fn window(steps: usize) -> u32 {
    WINDOW.min(steps / 5) as u32
}

/// What was done about the fault of a step, if anything was: the step was skipped, or the run went
/// back to a snapshot from before it.
fn answer(records: &[Telemetry], step: u64) -> Option<String> {
    let fault = records.iter().find(|record| record.step == step)?;
    if !fault.applied {
        return Some("skipped".to_owned());
    }
    let is_undone = |later: &&Telemetry| {
        let is_later = later.step > step && later.reason == Reason::RolledBack;
        is_later && later.applied_total < fault.applied_total
    };
    let undone = records.iter().find(is_undone)?;
    Some(format!("undone in step {}", undone.step))
}

/// Prints what the policies did. Whether all faults were answered.
fn tell(records: &[Telemetry], faults: &BTreeMap<u64, Fault>) -> bool {
    say!("\nwhat the policies did:");
    for record in records.iter().filter(|record| record.event_bits != 0) {
        let events: Vec<_> = record.events().map(|event| format!("{event:?}")).collect();
        if events != ["Snapshot"] {
            let (step, value) = (record.step, record.event_value);
            say!("  step {step:>5}  z-score {value:>10.3e}  {}", events.join(", "));
        }
    }
    say!("\nwhat became of the faults:");
    let mut all = true;
    for (&step, fault) in faults {
        let answer = answer(records, step);
        say!("  step {step:>5}  {fault:?}: {}", answer.as_deref().unwrap_or("applied"));
        all &= answer.is_some();
    }
    all
}

/// Whether all faults were answered and the guarded run ends near the clean one.
async fn run(options: &Options) -> Result<bool> {
    if options.steps < 100 {
        let value = options.steps.to_string();
        return Err(Error::Setting { setting: "--steps", value, range: "at least 100" });
    }
    plot::prepare(&options.out)?;
    let corpus = Corpus::new("this project's documents", TEXT.as_bytes())?;
    let split = corpus.split(0.1, options.context)?;
    let gpu = Gpu::new().await?;
    let kind = if gpu.is_software() { "software" } else { "hardware" };
    say!("adapter  {} ({:?}, {kind})", gpu.info.name, gpu.info.backend);
    let vocabulary = corpus.vocabulary().size();
    let (none, faults) = (BTreeMap::new(), faults(options.steps));
    for (step, fault) in &faults {
        say!("fault    step {step}: {fault:?}");
    }

    let mut outcomes = Vec::new();
    for (name, faults, guarded) in
        [("clean", &none, false), ("unguarded", &faults, false), ("guarded", &faults, true)]
    {
        let outcome = train(&gpu, options, vocabulary, &split, faults, guarded).await?;
        let skipped = outcome.records.last().map_or(0, |record| record.skipped_total);
        say!(
            "{name:<9}  validation loss {:.4} after {} steps, {skipped} of them skipped",
            outcome.validation,
            outcome.records.len()
        );
        outcomes.push((name, outcome));
    }
    let is_answered = tell(&outcomes[2].1.records, &faults);
    let curves = outcomes.iter().map(|(name, outcome)| (*name, &outcome.records[..]));
    plot::draw(&options.out, &curves.collect::<Vec<_>>(), &faults)?;
    say!("\nplot     {}", options.out.display());
    let [clean, _, guarded] = [0, 1, 2].map(|index| outcomes[index].1.validation);
    say!("guarded against clean: {:+.2} %", 100.0 * (guarded / clean - 1.0));
    let is_near = guarded <= clean * (1.0 + ALLOWED);
    Ok(is_answered && is_near && outcomes.iter().all(|(_, outcome)| !outcome.gave_up))
}

async fn train(
    gpu: &Gpu,
    options: &Options,
    vocabulary: usize,
    split: &Split<'_>,
    faults: &BTreeMap<u64, Fault>,
    guarded: bool,
) -> Result<Outcome> {
    let &Options { steps, width, layers, context, batch, seed, .. } = options;
    let gpt = Gpt::new(GptConfig::gpt2(vocabulary, context, layers, HEADS, width))?;
    let mut builder = Trainer::builder(LanguageModel { gpt, batch, time: context })
        .optimizer(AdamW { learning_rate: 3e-3, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: steps / 20, total: steps, final_factor: 0.1 })
        .clip(if guarded || faults.is_empty() { Clip::Norm(1.0) } else { Clip::None })
        .seed(seed);
    if guarded {
        // A batch of noise is skipped; a second spike right after it means that the weights are
        // to blame, so the next reaction is to go back.
        let guard = SpikeGuard {
            window: window(steps),
            reactions: vec![Reaction::Skip, Reaction::RollBack],
            repeats: 2,
            within: 10,
            ..SpikeGuard::default()
        };
        let ring = SnapshotRing {
            every: 10,
            after: 0,
            learning_rate_factor: 0.5,
            cut_steps: 5,
            ..SnapshotRing::default()
        };
        builder = builder.policy(guard).policy(ring);
    }
    let mut trainer = builder.build(gpu).await?;
    let (mut records, mut gave_up): (Vec<Telemetry>, _) = (Vec::new(), false);
    let applied = |records: &[Telemetry]| records.last().map_or(0, |r| r.applied_total as usize);
    while applied(&records) < steps {
        let more = CHUNK.min((steps - applied(&records)) as u64);
        let chunk = async {
            for _ in 0..more {
                let step = trainer.steps();
                let fault = faults.get(&step);
                let rate = if fault == Some(&Fault::LearningRate) { 1000.0 } else { 1.0 };
                trainer.set_learning_rate_factor(rate);
                let data = match fault {
                    Some(Fault::RandomBatch) => noise(seed, step, batch * context, vocabulary),
                    _ => split.training.batch(seed, step, batch),
                };
                trainer.step(&data).await?;
            }
            trainer.telemetry().await
        };
        match chunk.await {
            Ok(more) => records.extend(more),
            // What became of it is shown as well.
            Err(error @ Error::GaveUp { .. }) => {
                say!("{error}");
                gave_up = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let batches = (0..VALIDATION_BATCHES).map(|index| split.validation.batch(seed, index, batch));
    let validation = trainer.evaluate_all(&batches.collect::<Vec<_>>()).await?;
    Ok(Outcome { records, validation, gave_up })
}

/// Random tokens and targets.
fn noise(seed: u32, step: u64, count: usize, vocabulary: usize) -> Batch {
    let draw = |position: usize, which: u32| {
        let words = threefry4x32([seed, step as u32, which, 7], [position as u32, 0, 0, 0]);
        words[0] % vocabulary as u32
    };
    let ids = |which| (0..count).map(|position| draw(position, which)).collect::<Vec<_>>();
    Batch::new().with("tokens", ids(0)).with("targets", ids(1))
}
