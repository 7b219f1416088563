//! Ranks that train by themselves and meet once in some steps, for slow networks; and one that goes
//! astray without taking the others with it.
//!
//! ```text
//! cargo run --release --example diloco -- --ranks 4
//! cargo run --release --example diloco -- --ranks 3 --astray 1 --nan 2
//! cargo build --release --example diloco --features mpi
//! mpirun -n 4 target/release/examples/diloco --mpi
//! ```
//!
//! A small network learns a function of two numbers, each rank from rows of its own. Rank 0 prints what
//! each round came to, and in the end how many bytes it sent, beside those of data parallel.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use evenkeel::graph::{Graph, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::Linear;
use evenkeel::run::finish;
use evenkeel::train::ranks::{DiLoCo, DiLoCoSettings, DifferenceEncoding, Exchange, Local, Round};
use evenkeel::train::{AdamW, Batch, Clip, Model, ModelOutput, Schedule, Trainer};
use evenkeel::{Error, Gpu, Result, block_on, say};

/// Rows of a step.
const ROWS: usize = 32;
/// Of a rank that goes astray.
const TOO_FAST: f32 = 100.0;

/// Trains on ranks that rarely meet.
#[derive(Clone, Debug, Parser)]
#[command(name = "diloco")]
struct Options {
    /// Ranks, each in a thread
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Takes the ranks that mpirun started instead
    #[cfg(feature = "mpi")]
    #[arg(long)]
    mpi: bool,
    /// Steps of each rank
    #[arg(long, default_value_t = 200)]
    steps: u64,
    /// Steps between two rounds
    #[arg(long, default_value_t = 20)]
    inner_steps: u64,
    /// Momentum of the outer step: 0.9, as in the paper, looks back over more rounds than a short run has
    #[arg(long, default_value_t = 0.5)]
    momentum: f64,
    /// How differences are sent
    #[arg(long, value_enum, default_value_t = Encoding::Int8)]
    encoding: Encoding,
    /// Lets this rank run a hundred times too fast in the middle third of the run
    #[arg(long, value_name = "RANK")]
    astray: Option<usize>,
    /// Puts a NaN into a weight of this rank in the middle of the run
    #[arg(long, value_name = "RANK")]
    nan: Option<usize>,
    /// Seed of weights and data
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Encoding {
    F32,
    F16,
    Int8,
}

impl From<Encoding> for DifferenceEncoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::F32 => Self::F32,
            Encoding::F16 => Self::F16,
            Encoding::Int8 => Self::Int8,
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(feature = "mpi")]
    if options.mpi {
        let world = evenkeel::train::ranks::Mpi::world();
        return finish(world.and_then(|mpi| train(&options, mpi)).map(|()| true));
    }
    finish(train_local(&options).map(|()| true))
}

fn train_local(options: &Options) -> Result<()> {
    if options.ranks == 0 {
        return Err(Error::Setting {
            setting: "--ranks",
            value: options.ranks.to_string(),
            range: "at least 1",
        });
    }
    std::thread::scope(|scope| {
        let spawn = |exchange| scope.spawn(|| train(options, exchange));
        let ranks: Vec<_> = Local::ranks(options.ranks).into_iter().map(spawn).collect();
        ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank does not panic"))
    })
}

fn model(graph: &mut Graph) -> ModelOutput {
    let x = graph.input("x", Shape::real([ROWS, 2]));
    let y = graph.input("y", Shape::real([ROWS, 1]));
    let hidden = Linear::new(2, 32).activation(Activation::Silu).forward(graph, "hidden", x);
    let prediction = Linear::new(32, 1).forward(graph, "out", hidden);
    ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
}

/// Rows from one on, of a sequence that fills the square.
fn batch(first: u64) -> Batch {
    let at = |i: u64, step: f64| ((i as f64 * step).fract() * 2.0 - 1.0) as f32;
    let rows = first..first + ROWS as u64;
    let x: Vec<f32> = rows.flat_map(|i| [at(i, 0.754_877_666), at(i, 0.569_840_291)]).collect();
    let y: Vec<f32> = x.chunks(2).map(|pair| (3.0 * pair[0]).sin() * pair[1]).collect();
    Batch::new().with("x", x).with("y", y)
}

fn train(options: &Options, exchange: impl Exchange + 'static) -> Result<()> {
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let gpu = block_on(Gpu::new())?;
    let total = options.steps as usize;
    let builder = Trainer::builder(model)
        .optimizer(AdamW { learning_rate: 0.01, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: total / 20, total, final_factor: 0.1 })
        .clip(Clip::Norm(1.0))
        .seed(options.seed);
    let settings = DiLoCoSettings {
        inner_steps: options.inner_steps,
        momentum: options.momentum,
        encoding: options.encoding.into(),
        ..DiLoCoSettings::default()
    };
    // Where a rank cannot build its trainer, all hear of it.
    let built = block_on(builder.build(&gpu));
    let mut diloco = block_on(DiLoCo::new(built, exchange, settings))?;
    let held_out: Vec<_> = (0..4).map(|i| batch(1_000_000 + i * ROWS as u64)).collect();
    let mut sent = 0;
    for step in 0..options.steps {
        let is_fast = options.astray == Some(rank) && is_in_the_middle(step, options.steps);
        let factor = if is_fast { TOO_FAST } else { 1.0 };
        diloco.trainer_mut().set_learning_rate_factor(factor);
        if options.nan == Some(rank) && step == options.steps / 2 {
            let slot = diloco.trainer().parameters().find("hidden.weight")?;
            gpu.write(&slot.buffer, slot.offset, &f32::NAN.to_le_bytes());
        }
        // Rows that no other rank has, and no other step.
        let place = step * ranks as u64 + rank as u64;
        let round = block_on(diloco.step(&batch(place * ROWS as u64)))?;
        if let Some(round) = round {
            sent += round.bytes_sent;
            tell(&mut diloco, &round, &held_out)?;
        }
    }
    if diloco.steps_in_round() > 0 {
        let round = block_on(diloco.round())?;
        sent += round.bytes_sent;
        tell(&mut diloco, &round, &held_out)?;
    }
    if rank == 0 {
        let parameters = diloco.trainer().parameters().count() as f64;
        let each = sent as f64 / options.steps as f64;
        let data_parallel = 8.0 * (ranks - 1) as f64 / ranks as f64 * parameters;
        say!(
            "{each:.1} bytes sent in a step, {data_parallel:.1} by data parallel, for {parameters} \
             parameters on {ranks} ranks"
        );
    }
    Ok(())
}

fn is_in_the_middle(step: u64, steps: u64) -> bool {
    (steps / 3..2 * steps / 3).contains(&step)
}

/// Rank 0 prints for all.
fn tell<M: Model>(diloco: &mut DiLoCo<M>, round: &Round, held_out: &[Batch]) -> Result<()> {
    if diloco.exchange().rank() > 0 {
        return Ok(());
    }
    let loss = block_on(diloco.trainer_mut().evaluate_all(held_out))?;
    let norms = round.norms.iter().map(|norm| match norm {
        Some(norm) => format!("{norm:.3}"),
        None => "not finite".to_owned(),
    });
    let norms = norms.collect::<Vec<_>>().join(", ");
    say!("round {}: held out {loss:.5}, moved by {norms}", round.number);
    round.left_out.iter().for_each(|left_out| say!("  {left_out}"));
    Ok(())
}
