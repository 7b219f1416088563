//! Training on several ranks: processes with a device each, which take every step together.
//!
//! A run on N ranks with M microbatches each is the run of one process with
//! [`accumulation`](super::TrainerBuilder::accumulation) N M, cut between ranks: rank r has the
//! microbatches r M to (r + 1) M - 1 of every step. Means over targets are over those of all ranks,
//! dropout draws by the microbatch's place among all, and the gradients of all are added before
//! anything looks at them.
//!
//! ```text
//! each rank:  count targets | counts of all | forward | backward, meanwhile gradients of all |
//!             loss, states of all |
//!             scan | norm | policies | verdict | optimizer | average | commit | telemetry
//! ```
//!
//! **Gradients leave while the backward pass goes on**, that of the last microbatch, in pieces of 4 MiB:
//! a piece leaves when nothing writes it any more, the last layers first
//! ([`gradient_pieces`](super::Trainer::gradient_pieces)). Up to four are on their way from the device
//! ([`exchange_bytes`](super::MemoryPlan::exchange_bytes): 16 MiB at most), and up to eight between
//! ranks, with their messages in some 200 MiB of the host's memory at most. So a slow network takes its
//! time behind the passes, and delays are waited for once, not for each piece.
//!
//! **One verdict.** Behind the exchange every rank has the same bits, and what follows is the update
//! of one machine, which reads nothing else. So ranks find the same norm, the same overflow, the same
//! clip coefficient and loss scale, and their policies, clocks, averages and rollbacks stay
//! together: a NaN of one rank skips the step on all. What the host of a rank finds wrong (a batch
//! that does not fit, a run that gave up) it tells the others before a step begins, and none takes it.
//!
//! **The same bits on every network.** Gradients are added in f32 in the order of ranks,
//! `((r0 + r1) + r2) + ...`, whatever carries them: an [`Exchange`] moves bytes and adds nothing. In
//! steps of one microbatch per rank that is the order in which one process adds its microbatches.
//!
//! **Equal ranks.** When a trainer is built, ranks compare version, model, settings and seed, and
//! in its first step all that a checkpoint would have; then that again every
//! [so many steps](super::TrainerBuilder::compare_ranks_every). The rank that differs is named. The
//! update runs on every rank, so devices must agree about its bits: take adapters of one kind with
//! one driver, or the comparison will tell.
//!
//! **A sharded optimizer.** With
//! [`shard_optimizer_state`](super::TrainerBuilder::shard_optimizer_state) each rank keeps the moments
//! of its own range of the trained tensors, and updates that alone:
//!
//! ```text
//! scan | norm | policies | verdict | optimizer, of the own range | weights of all ranges |
//! average | commit | telemetry
//! ```
//!
//! All but the optimizer reads whole gradients and whole weights, as without, and the optimizer does
//! to a range what it does to the same elements of the whole, so no bit differs. With P trained
//! parameters on N ranks a rank sends 8 P (N - 1) / N bytes of gradients in a step, and 4 P (N - 1) / N of
//! weights in f32 or in two halves, 2 P (N - 1) / N in one. A step that ends with an error while weights
//! are shared leaves those of some ranges a step ahead: such a trainer takes no further step until a
//! checkpoint is restored, or it is rebuilt.
//!
//! What differs from one process: running statistics of BatchNorm are the mean of those that the ranks
//! would have by themselves, so they move as far as the M microbatches of one rank move them;
//! observations are those of the rank, but for largest logits, entropies and z-loss, which are those of
//! all. Evaluation, [`diagnose`](super::Trainer::diagnose) and telemetry are each rank's own affair;
//! so are checkpoints (unless the optimizer is [sharded](super::TrainerBuilder::shard_optimizer_state)): let
//! rank 0 write them, and [restore](super::Trainer::restore) the same on all
//! ([`Exchange::broadcast`] brings it where there is no file). [`rebuild`](super::Trainer::rebuild) is
//! for all of them at once, as `build` is.
//!
//! **Ranks that are gone.** No call waits for ever: a rank that left the run (an error, a panic) is named
//! to the others at once, one that died or hangs when their time limit is over
//! ([`Local::time_limit`], `Mpi::time_limit`; 10 minutes). All ranks are told the same, and no exchange
//! works behind it: whoever comes late is told, too, and takes no step. So ranks part by one step at
//! most, if they were told between its exchanges, and what such a step made is what all would have
//! made. A trainer that was told is as its last step left it, and can be
//! [saved](super::Trainer::checkpoint). Start again from the last checkpoint, on as many ranks as are
//! there: 4 ranks with 1 microbatch go on as 2 ranks with 2, or as one process with 4.
//!
//! # Slow networks
//!
//! Gradients of every step take a network of gigabits. Over a slower one ranks train by themselves, on data of
//! their own, and meet once in hundreds of steps: [`DiLoCo`] is such a run, around a trainer without an
//! exchange. [`diloco`] says what a round does, and which ranks it leaves out.
//!
//! ```
//! use evenkeel::graph::{Graph, Shape};
//! use evenkeel::nn::Linear;
//! use evenkeel::train::ranks::{Exchange, Local};
//! use evenkeel::train::{Batch, ModelOutput, Trainer};
//! use evenkeel::{Gpu, block_on};
//!
//! // Two rows of data for each rank.
//! let model = |graph: &mut Graph| {
//!     let x = graph.input("x", Shape::real([2, 3]));
//!     let y = graph.input("y", Shape::real([2, 1]));
//!     let prediction = Linear::new(3, 1).forward(graph, "out", x);
//!     ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
//! };
//! # let Ok(gpu) = block_on(Gpu::new()) else { return Ok(()) };
//! // Ranks in one process, each in a thread; `Mpi::world()` gives this process's rank of a cluster.
//! let run = |exchange: Local| -> evenkeel::Result<f32> {
//!     let (rank, size) = (exchange.rank(), exchange.size());
//!     let mut trainer = block_on(Trainer::builder(model).exchange(exchange).build(&gpu))?;
//!     let x: Vec<f32> = (0..12).map(|i| i as f32 / 6.0).collect();
//!     let whole = Batch::new().with("x", x).with("y", vec![1.0, 0.0, -1.0, 2.0]);
//!     block_on(trainer.step(&whole.of_rank(rank, size)?))?;
//!     Ok(block_on(trainer.telemetry())?[0].loss)
//! };
//! let losses = std::thread::scope(|scope| {
//!     let ranks = Local::ranks(2).into_iter().map(|exchange| scope.spawn(|| run(exchange)));
//!     let ranks: Vec<_> = ranks.collect();
//!     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<evenkeel::Result<Vec<_>>>()
//! })?;
//! assert_eq!(losses[0], losses[1]);
//! # Ok::<(), evenkeel::Error>(())
//! ```

mod agreement;
#[cfg(all(feature = "mpi", not(target_arch = "wasm32")))]
mod courier;
#[cfg(not(target_arch = "wasm32"))]
pub mod diloco;
mod exchange;
mod folding;
mod joined;
#[cfg(all(feature = "mpi", not(target_arch = "wasm32")))]
mod journey;
#[cfg(not(target_arch = "wasm32"))]
mod local;
#[cfg(all(feature = "mpi", not(target_arch = "wasm32")))]
mod mpi;
mod opening;
mod overlap;
#[cfg(not(target_arch = "wasm32"))]
mod rounds;
mod sharded;
mod shards;
mod step;
mod transfer;
#[cfg(all(feature = "mpi", not(target_arch = "wasm32")))]
mod wait;

pub(super) use agreement::agree_about;
#[cfg(not(target_arch = "wasm32"))]
pub use diloco::{
    DiLoCo, DiLoCoCheckpoint, DiLoCoSettings, DifferenceEncoding, LeftOut, Resumed, Round, Why,
};
pub(super) use exchange::RunExchange;
pub use exchange::{Begun, Exchange, even_parts};
#[cfg(not(target_arch = "wasm32"))]
pub use local::Local;
#[cfg(all(feature = "mpi", not(target_arch = "wasm32")))]
pub use mpi::Mpi;
pub use overlap::GradientPiece;
pub(super) use sharded::spread;
pub(super) use shards::{OwnSegment, Shards};
pub(super) use transfer::exchange_bytes;

use overlap::Order;
use sharded::Sharded;

use std::rc::Rc;

use super::builder::settings::Settings;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, OverRanks, Source, Value};
use crate::plan::{Parameters, parameters};

/// What a trainer has to take steps together with others.
#[derive(Debug)]
pub(super) struct Ranks {
    pub exchange: RunExchange,
    /// Whether all ranks are known to be in the same state: not after they were built or restored.
    pub are_equal: bool,
    /// Steps between comparisons; 0 for none but the first.
    compare_every: u64,
    /// How the plan's outputs behind the loss become those of all ranks; `None` for what stays the
    /// rank's own.
    joins: Vec<Option<OverRanks>>,
    /// Where pieces of the gradients wait for the host, in turn.
    staging: Vec<wgpu::Buffer>,
    /// By plan, the order in which a step finishes its gradients.
    orders: Vec<Option<Rc<Order>>>,
    /// How ranks share what each of them updates, where the optimizer is sharded.
    sharded: Option<Sharded>,
}

/// What of a trainer ranks have to do with.
pub(super) struct Shared<'a> {
    pub graph: &'a Graph,
    /// The loss, then what else the plan gives.
    pub outputs: &'a [Value],
    pub gradients: &'a [wgpu::Buffer],
    pub parameters: &'a Parameters,
    pub shards: Shards,
    /// Dispatches of the update until weights and moments have advanced.
    pub advanced: usize,
}

impl Ranks {
    /// What the settings ask for. A run with one rank is a run by itself.
    pub async fn new(gpu: &Gpu, settings: &Settings, shared: Shared<'_>) -> Result<Option<Self>> {
        let Shared { graph, outputs, gradients, parameters, shards, advanced } = shared;
        let others = settings.exchange.clone().filter(|exchange| exchange.size() > 1);
        let Some(exchange) = others else { return Ok(None) };
        check_layers(graph)?;
        let sizes = transfer::staging_bytes(gradients.iter().map(wgpu::Buffer::size));
        let total = sizes.iter().sum();
        let staging = parameters::allocate(gpu, "the exchange of gradients", total, || {
            sizes.iter().map(|&bytes| gpu.staging(bytes)).collect()
        });
        Ok(Some(Self {
            exchange,
            are_equal: false,
            compare_every: settings.compare_every.into(),
            joins: outputs[1..].iter().map(|&value| over_ranks(graph, value)).collect(),
            staging: staging.await?,
            orders: Vec::new(),
            sharded: Sharded::new(shards, parameters, advanced),
        }))
    }

    /// Bytes that the host maps.
    pub fn bytes(&self) -> u64 {
        self.staging.iter().map(wgpu::Buffer::size).sum()
    }

    /// Whether all that ranks have is to be compared before this step.
    fn compares(&self, step: u64) -> bool {
        !self.are_equal || self.compare_every > 0 && step.is_multiple_of(self.compare_every)
    }
}

fn over_ranks(graph: &Graph, value: Value) -> Option<OverRanks> {
    match &graph.nodes()[value.node].source {
        Source::Op(op) => op.over_ranks(value.output),
        _ => None,
    }
}

/// What acts after the update must read the same on all ranks.
fn check_layers(graph: &Graph) -> Result<()> {
    let read = graph.after_updates().iter().flat_map(|layer| layer.reads());
    match read.into_iter().find(|&value| over_ranks(graph, value).is_none()) {
        None => Ok(()),
        Some(value) => Err(Error::Unsupported {
            what: format!(
                "a layer that acts after the update on {}, on several ranks,",
                graph.nodes()[value.node].label
            ),
            instead: "say in Op::over_ranks how what the ranks found becomes one value".into(),
        }),
    }
}
