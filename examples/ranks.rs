//! One run on several processes, by MPI; or on several threads, bit by bit the same.
//!
//! ```text
//! cargo build --release --features mpi --example ranks
//! mpirun -n 4 target/release/examples/ranks
//! target/release/examples/ranks --local 4
//! ```
//!
//! A small network with dropout learns a function of two numbers. Every rank draws the rows of its own
//! place in each step, so that data and masks are those of one process with as many microbatches. At
//! the end each rank prints its last loss and a fingerprint of its checkpoint, which are equal, and the same
//! with `--shard-optimizer`.
//!
//! `--nan-at 3` spoils the data of a rank in step 3; given to one rank alone it skips the step on all:
//!
//! ```text
//! mpirun -n 1 target/release/examples/ranks : -n 1 target/release/examples/ranks --nan-at 3
//! ```

use std::process::ExitCode;

use clap::Parser;
use evenkeel::data::Fingerprint;
use evenkeel::graph::{Graph, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::Linear;
use evenkeel::run::finish;
use evenkeel::train::ranks::{Exchange, Local, Mpi};
use evenkeel::train::{AdamW, Batch, Clip, ModelOutput, Trainer};
use evenkeel::{Error, Gpu, Result, block_on};

/// Rows of a microbatch; a rank has one in each step.
const ROWS: usize = 32;

/// Trains on several ranks.
#[derive(Clone, Debug, Parser)]
#[command(name = "ranks")]
struct Options {
    /// Steps to take
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Seed of weights, dropout and data
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Learning rate
    #[arg(long, default_value_t = 0.01)]
    lr: f32,
    /// Puts a NaN into the data of this rank in one step
    #[arg(long)]
    nan_at: Option<usize>,
    /// Keeps the optimizer's moments once for all ranks together
    #[arg(long)]
    shard_optimizer: bool,
    /// Runs so many ranks in threads instead of MPI
    #[arg(long)]
    local: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let trained = match options.local {
        None => Mpi::world().and_then(|mpi| train(&options, mpi)),
        Some(ranks) => train_local(&options, ranks),
    };
    finish(trained.map(|()| true))
}

fn train_local(options: &Options, ranks: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let spawn = |exchange| scope.spawn(|| train(options, exchange));
        let ranks: Vec<_> = Local::ranks(ranks).into_iter().map(spawn).collect();
        ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank does not panic"))
    })
}

fn model(graph: &mut Graph) -> ModelOutput {
    let x = graph.input("x", Shape::real([ROWS, 2]));
    let y = graph.input("y", Shape::real([ROWS, 1]));
    let hidden = Linear::new(2, 32).activation(Activation::Silu).forward(graph, "hidden", x);
    let hidden = graph.dropout(hidden, 0.1);
    let prediction = Linear::new(32, 1).forward(graph, "out", hidden);
    ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
}

/// The rows of a microbatch: a function of its place in the run alone.
fn batch(seed: u32, microbatch: usize, has_nan: bool) -> Batch {
    let first = microbatch * ROWS + seed as usize;
    let at = |row: usize| ((first + row) as f32 * 0.618_034).fract() * 2.0 - 1.0;
    let mut x: Vec<f32> = (0..2 * ROWS).map(|i| at(i / 2 + 1000 * (i % 2))).collect();
    let y: Vec<f32> = x.chunks(2).map(|pair| (3.0 * pair[0]).sin() * pair[1]).collect();
    if has_nan {
        x[5] = f32::NAN;
    }
    Batch::new().with("x", x).with("y", y)
}

fn train(options: &Options, exchange: impl Exchange + 'static) -> Result<()> {
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let gpu = block_on(Gpu::new())?;
    let builder = Trainer::builder(model)
        .optimizer(AdamW { learning_rate: options.lr.into(), ..AdamW::default() })
        .clip(Clip::Norm(1.0))
        .seed(options.seed)
        .compare_ranks_every(10)
        .shard_optimizer_state(options.shard_optimizer)
        .exchange(exchange);
    let mut trainer = block_on(builder.build(&gpu))?;
    for step in 0..options.steps {
        let microbatch = step * ranks + rank;
        let batch = batch(options.seed, microbatch, options.nan_at == Some(step));
        block_on(trainer.step(&batch))?;
    }
    let records = block_on(trainer.telemetry())?;
    let last = records.last().ok_or_else(|| Error::Setting {
        setting: "--steps",
        value: options.steps.to_string(),
        range: "at least 1",
    })?;
    let skipped = records.iter().filter(|record| !record.applied).count();
    let bytes = block_on(trainer.checkpoint())?.to_bytes();
    // In one piece, since several processes print.
    println!(
        "rank {rank} of {ranks}: {} steps, {skipped} skipped, loss {:e}, fingerprint {}",
        records.len(),
        last.loss,
        Fingerprint::new().with(&bytes)
    );
    Ok(())
}
