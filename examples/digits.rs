//! Classifies handwritten digits: Kaiming initialisation, BatchNorm and ReLU on 8 x 8 pictures.
//!
//! ```text
//! cargo run --release --example digits
//! ```
//!
//! The 1,797 digits of the UCI repository ship inside the smartcore crate. A fifth of them is kept
//! for the test, which runs through a [`Predictor`]: it shares the trainer's parameters and uses
//! the running statistics that BatchNorm gathered in training.

use std::process::ExitCode;

use clap::Parser;
use evenkeel::nn::{Classifier, MlpClassifier};
use evenkeel::reference::random::threefry4x32;
use evenkeel::run::{finish, say};
use evenkeel::train::{AdamW, Batch, Clip, Model, Predictor, Schedule, Trainer};
use evenkeel::{Error, Gpu, Result};

/// Trains a classifier of handwritten digits.
#[derive(Debug, Parser)]
#[command(name = "digits")]
struct Options {
    /// Times that every training picture is seen.
    #[arg(long, default_value_t = 15)]
    epochs: usize,
    /// Pictures in a batch; at least 2, as BatchNorm needs a variance.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Seed of the split, the order and the initial weights.
    #[arg(long, default_value_t = 0)]
    seed: u32,
}

/// Pictures as rows of 64 features in [0, 1], and what they show.
#[derive(Clone, Default)]
struct Digits {
    features: Vec<f32>,
    labels: Vec<u32>,
}

/// Features of a picture.
const FEATURES: usize = 64;
const CLASSES: usize = 10;

fn main() -> ExitCode {
    finish(pollster::block_on(run(&Options::parse())))
}

async fn run(options: &Options) -> Result<()> {
    let (training, test) = load(options.seed);
    let (count, batch) = (training.labels.len(), options.batch);
    if !(2..=count).contains(&batch) {
        let range = "at least 2 and at most the 1437 training pictures";
        return Err(Error::Setting { setting: "--batch", value: batch.to_string(), range });
    }
    let steps = count / batch * options.epochs;
    if steps == 0 {
        let (setting, value) = ("--epochs", options.epochs.to_string());
        return Err(Error::Setting { setting, value, range: "at least 1" });
    }

    let gpu = Gpu::new().await?;
    say!("adapter   {} ({:?})", gpu.info.name, gpu.info.backend);
    let mlp = MlpClassifier {
        inputs: FEATURES,
        hidden: vec![128, 64],
        classes: CLASSES,
        batch_norm: true,
    };
    let mut trainer = Trainer::builder(Classifier { mlp: mlp.clone(), batch })
        .optimizer(AdamW { learning_rate: 3e-3, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: 10.min(steps), total: steps, final_factor: 0.01 })
        .clip(Clip::Norm(1.0))
        .seed(options.seed)
        .build(&gpu)
        .await?;
    say!("model     {} parameters", trainer.parameters().count());

    for epoch in 0..options.epochs {
        let order = shuffled(count, [options.seed, 1 + epoch as u32]);
        for rows in order.chunks_exact(batch) {
            trainer.step(&training.batch(rows)).await?;
        }
        let telemetry = trainer.telemetry().await?;
        let loss = telemetry.iter().map(|step| step.loss).sum::<f32>() / telemetry.len() as f32;
        if (epoch + 1) % 5 == 0 || epoch + 1 == options.epochs {
            say!("epoch {:>3}  loss {loss:.4}", epoch + 1);
        }
    }

    let whole = test.labels.len();
    let model = Classifier { mlp, batch: whole };
    let build = |graph: &mut _| vec![model.build(graph).prediction];
    let predictor = Predictor::new(&gpu, trainer.parameters(), build).await?;
    let rows: Vec<_> = (0..whole).collect();
    let logits = predictor.run(&test.batch(&rows)).await?.swap_remove(0);
    let predicted = logits.chunks(CLASSES).map(largest);
    let correct = predicted.zip(&test.labels).filter(|(found, label)| found == *label).count();
    let accuracy = 100.0 * correct as f64 / whole as f64;
    say!("test      accuracy {accuracy:.1} % ({correct} of {whole})");
    Ok(())
}

impl Digits {
    fn batch(&self, rows: &[usize]) -> Batch {
        let Digits { features, labels } = self.select(rows);
        Batch::new().with("inputs", features).with("targets", labels)
    }

    fn select(&self, rows: &[usize]) -> Self {
        let features = rows.iter().flat_map(|row| &self.features[row * FEATURES..][..FEATURES]);
        let labels = rows.iter().map(|&row| self.labels[row]);
        Self { features: features.copied().collect(), labels: labels.collect() }
    }
}

/// Four fifths to train on and one to test on.
fn load(seed: u32) -> (Digits, Digits) {
    let set = smartcore::dataset::digits::load_dataset();
    let all = Digits {
        features: set.data.iter().map(|pixel| pixel / 16.0).collect(),
        labels: set.target.iter().map(|&label| label as u32).collect(),
    };
    let order = shuffled(set.num_samples, [seed, 0]);
    let (training, test) = order.split_at(set.num_samples * 4 / 5);
    (all.select(training), all.select(test))
}

/// The numbers below `count` in an order that depends on the key alone (Fisher and Yates).
fn shuffled(count: usize, [seed, stream]: [u32; 2]) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for last in (1..count).rev() {
        let [word, ..] = threefry4x32([last as u32, 0, 0, 0], [seed, stream, 0, 0]);
        let other = (u64::from(word) * (last as u64 + 1)) >> 32;
        order.swap(last, other as usize);
    }
    order
}

fn largest(logits: &[f32]) -> u32 {
    let classes = 0..logits.len();
    classes.max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("ten classes") as u32
}
