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
//!
//! `--save` keeps a checkpoint after every step, which `--resume` goes on from, on as many ranks as there
//! are: 4 ranks, of which one hangs in step 7, are 2 ranks with 2 microbatches each from there on.
//!
//! ```text
//! mpirun -n 3 target/release/examples/ranks --save a --time-limit 20 \
//!     : -n 1 target/release/examples/ranks --time-limit 20 --stop-at 7
//! mpirun -n 2 target/release/examples/ranks --resume a --microbatches 2
//! ```
//!
//! With `--width 1024 --layers 3` there are 12.6 MB of gradients, which leave in four pieces while the
//! backward pass goes on; `--kill-in` kills a process when some of them are on their way.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use evenkeel::data::Fingerprint;
use evenkeel::graph::{Graph, Shape};
use evenkeel::kernels::Activation;
use evenkeel::nn::Linear;
use evenkeel::run::finish;
use evenkeel::train::ranks::{Begun, Exchange, Local, Mpi};
use evenkeel::train::{AdamW, Batch, Checkpoint, Clip, Model, ModelOutput, Trainer};
use evenkeel::{Error, Gpu, Result, block_on};

/// Rows of a microbatch.
const ROWS: usize = 32;

/// Trains on several ranks.
#[derive(Clone, Debug, Parser)]
#[command(name = "ranks")]
struct Options {
    /// Steps of the run
    #[arg(long, default_value_t = 50)]
    steps: u64,
    /// Microbatches of a step on each rank
    #[arg(long, default_value_t = 1)]
    microbatches: usize,
    /// Width of hidden layers
    #[arg(long, default_value_t = 32)]
    width: usize,
    /// Hidden layers behind the first one
    #[arg(long, default_value_t = 0)]
    layers: usize,
    /// Seed of weights, dropout and data
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Learning rate
    #[arg(long, default_value_t = 0.01)]
    lr: f32,
    /// Puts a NaN into the data of this rank in one step
    #[arg(long)]
    nan_at: Option<u64>,
    /// Kills this process at the beginning of one step
    #[arg(long)]
    kill_at: Option<u64>,
    /// Kills this process in one step, with pieces of gradients on their way
    #[arg(long)]
    kill_in: Option<u64>,
    /// Stops this process at the beginning of one step, as Ctrl-Z does
    #[arg(long)]
    stop_at: Option<u64>,
    /// Seconds after which it goes on; never, if nothing is said
    #[arg(long)]
    stop_for: Option<u32>,
    /// Sleeps for a second at the beginning of one step
    #[arg(long)]
    sleep_at: Option<u64>,
    /// Seconds that a rank waits for others
    #[arg(long, default_value_t = 600.0)]
    time_limit: f64,
    /// Where rank 0 puts a checkpoint after every step
    #[arg(long)]
    save: Option<PathBuf>,
    /// The checkpoint to go on from; only rank 0 needs the file
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Keeps the optimizer's moments once for all ranks together
    #[arg(long)]
    shard_optimizer: bool,
    /// Runs so many ranks in threads instead of MPI
    #[arg(long)]
    local: Option<usize>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    finish(run(&options).map(|()| true))
}

fn run(options: &Options) -> Result<()> {
    let limit = Duration::try_from_secs_f64(options.time_limit).map_err(|_| Error::Setting {
        setting: "--time-limit",
        value: options.time_limit.to_string(),
        range: "seconds, 0 or more",
    })?;
    let Some(ranks) = options.local else {
        return train(options, Mpi::world()?.time_limit(limit));
    };
    std::thread::scope(|scope| {
        let spawn = |exchange: Local| scope.spawn(|| train(options, exchange.time_limit(limit)));
        let ranks: Vec<_> = Local::ranks(ranks).into_iter().map(spawn).collect();
        ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank does not panic"))
    })
}

fn model(width: usize, layers: usize) -> impl Model {
    move |graph: &mut Graph| {
        let x = graph.input("x", Shape::real([ROWS, 2]));
        let y = graph.input("y", Shape::real([ROWS, 1]));
        let first = Linear::new(2, width).activation(Activation::Silu).forward(graph, "hidden", x);
        let hidden = (0..layers).fold(first, |x, layer| {
            let linear = Linear::new(width, width).activation(Activation::Silu);
            linear.forward(graph, &format!("hidden.{layer}"), x)
        });
        let hidden = graph.dropout(hidden, 0.1);
        let prediction = Linear::new(width, 1).forward(graph, "out", hidden);
        ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
    }
}

/// The rows of some microbatches: a function of their place in the run alone.
fn batch(seed: u32, first: u64, microbatches: usize, has_nan: bool) -> Batch {
    let rows = microbatches * ROWS;
    let first = first as usize * ROWS + seed as usize;
    let at = |row: usize| ((first + row) as f32 * 0.618_034).fract() * 2.0 - 1.0;
    let mut x: Vec<f32> = (0..2 * rows).map(|i| at(i / 2 + 1000 * (i % 2))).collect();
    let y: Vec<f32> = x.chunks(2).map(|pair| (3.0 * pair[0]).sin() * pair[1]).collect();
    if has_nan {
        x[5] = f32::NAN;
    }
    Batch::new().with("x", x).with("y", y)
}

/// Sends this process a signal.
fn signal(name: &str) {
    let own = std::process::id().to_string();
    let sent = Command::new("kill").args([name, &own]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill sends a signal");
}

/// What is to go wrong at the beginning of a step.
fn fail(options: &Options, step: u64) {
    if options.kill_at == Some(step) {
        signal("-KILL");
    }
    if options.stop_at == Some(step) {
        let waking = options.stop_for.map(|seconds| {
            let later = format!("sleep {seconds}; kill -CONT {}", std::process::id());
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", &later]).stdout(Stdio::null()).stderr(Stdio::null());
            shell.spawn().expect("sh is there")
        });
        signal("-STOP");
        if let Some(mut shell) = waking {
            shell.wait().expect("sh has ended");
        }
    }
    if options.sleep_at == Some(step) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// An exchange whose process is killed when it would begin the third piece of a step.
#[derive(Debug)]
struct Killed<E> {
    exchange: E,
    /// Pieces until then; none of a step that goes on.
    left: Cell<Option<usize>>,
}

impl<E: Exchange> Exchange for Killed<E> {
    fn rank(&self) -> usize {
        self.exchange.rank()
    }

    fn size(&self) -> usize {
        self.exchange.size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        self.exchange.scatter(sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        self.exchange.share(bytes, parts)
    }

    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        if self.left.get() == Some(0) {
            signal("-KILL");
        }
        self.left.set(self.left.get().map(|left| left - 1));
        self.exchange.begin_scatter(sent, parts)
    }

    fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        self.exchange.begin_share(bytes, parts)
    }

    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        self.exchange.end(begun)
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange.gather(own)
    }
}

fn train(options: &Options, exchange: impl Exchange + 'static) -> Result<()> {
    let exchange = Rc::new(Killed { exchange, left: Cell::new(None) });
    let (rank, ranks) = (exchange.rank(), exchange.size());
    let gpu = block_on(Gpu::new())?;
    let checkpoint = match &options.resume {
        Some(path) => Some(received(path, &*exchange)?),
        None => None,
    };
    let builder = Trainer::builder(model(options.width, options.layers))
        .optimizer(AdamW { learning_rate: options.lr.into(), ..AdamW::default() })
        .clip(Clip::Norm(1.0))
        .seed(options.seed)
        .accumulation(options.microbatches)
        .compare_ranks_every(10)
        .shard_optimizer_state(options.shard_optimizer)
        .exchange(exchange.clone());
    let mut trainer = block_on(builder.build(&gpu))?;
    if let Some(checkpoint) = checkpoint {
        block_on(trainer.restore(&checkpoint))?;
    }
    while trainer.steps() < options.steps {
        let step = trainer.steps();
        fail(options, step);
        if options.kill_in == Some(step) {
            exchange.left.set(Some(2));
        }
        let first = (step * ranks as u64 + rank as u64) * options.microbatches as u64;
        let has_nan = options.nan_at == Some(step);
        block_on(trainer.step(&batch(options.seed, first, options.microbatches, has_nan)))?;
        if let Some(path) = &options.save {
            // Of a sharded optimizer all ranks make it together.
            let checkpoint = block_on(trainer.checkpoint())?;
            if rank == 0 {
                save(&checkpoint, path)?;
            }
        }
    }
    let records = block_on(trainer.telemetry())?;
    let last = records.last().ok_or_else(|| Error::Setting {
        setting: "--steps",
        value: options.steps.to_string(),
        range: "more than were taken before",
    })?;
    let skipped = records.iter().filter(|record| !record.applied).count();
    let bytes = block_on(trainer.checkpoint())?.to_bytes();
    // In one piece, since several processes print.
    println!(
        "rank {rank} of {ranks}: {} steps, {skipped} skipped, loss {:e}, fingerprint {}",
        trainer.steps(),
        last.loss,
        Fingerprint::new().with(&bytes)
    );
    Ok(())
}

/// The file that rank 0 has, on all ranks.
fn received(path: &Path, exchange: &impl Exchange) -> Result<Checkpoint> {
    let own = if exchange.rank() == 0 {
        std::fs::read(path).map_err(|error| file_error(path, &error))?
    } else {
        Vec::new()
    };
    Checkpoint::from_bytes(&exchange.broadcast(&own)?)
}

/// A file that is whole, whenever this process ends: beside the last one, then in its place.
fn save(checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, checkpoint.to_bytes()).map_err(|error| file_error(&beside, &error))?;
    std::fs::rename(&beside, path).map_err(|error| file_error(path, &error))
}

fn file_error(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.to_owned(), reason: error.to_string() }
}
