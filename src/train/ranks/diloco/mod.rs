//! DiLoCo: ranks that train by themselves and come together once in hundreds of steps, for networks
//! that are too slow to send gradients in every step.
//!
//! ```text
//! each rank:  H steps of its own, on data of its own
//! then all:   how far each has come | which ranks count | mean over them | outer step | same weights
//! ```
//!
//! (Douillard et al. 2023, arXiv 2311.08105; Jaghouar et al. 2024, arXiv 2407.07852. Differences in few
//! bits: Douillard et al. 2025, arXiv 2501.18512.) [`DiLoCo`] has a trainer that knows nothing of others,
//! and an [`Exchange`]. With theta the weights that the last round came to, and theta_r those of rank r:
//!
//! ```text
//! g = mean over the ranks that count of (theta - theta_r)
//! momentum = mu momentum + g          theta = theta - lr (g + mu momentum)
//! ```
//!
//! so the outer optimizer is `torch.optim.SGD(nesterov=True)`. Its arithmetic is on the host in f64, in
//! ascending order of ranks, and every rank does it alike: after a round all have the same trained
//! weights, bit by bit, whatever carried them. A rank's moments, clocks, loss scale and policies are its
//! own and stay.
//!
//! # What ranks have of their own
//!
//! They begin with the same weights, which the seed of the builder makes, and are refused where model,
//! settings or weights differ. From then on rank r trains with the seed `seed + 0x9e3779b9 r` (modulo
//! 2^32), which [`Trainer::seed`] gives: dropout, stochastic rounding of weights and of moments draw by
//! it, and so may whoever draws batches. Rank 0 has the seed of the builder.
//!
//! # The guard
//!
//! A round leaves out ranks that would spoil it, and tells all ranks which and why ([`Round`]). Left out
//! is
//!
//! - a rank with a trained weight or a running statistic that is NaN or Inf;
//! - a rank whose weights have not moved, since it would only make the step smaller;
//! - an outlier: a rank whose weights have moved much further than usual. What is usual tell the norms of
//!   the other ranks in this round, and the medians of the rounds before. Of norms with the median m and the
//!   median absolute deviation d those up to `max(3 m, m + 6 · 1.4826 d)` are usual, in place of 3 with
//!   fewer than four ranks 10. Of two in the middle the lower is taken, so that of two ranks that differ the
//!   one that went too far is meant. Rounds before count from the third on, the last 16 of them, and only
//!   where some rank is within what they say: where all have moved further than ever, as after a rise of
//!   the learning rate, no rank stands out.
//!
//! Norms below others are no fault. The rule takes what all ranks told in one message, so that all come to
//! the same. A rank that was left out goes on from the weights of the others; moments that are not
//! finite are emptied, tensor by tensor ([`Round::emptied`]), after weights that were not finite the
//! loss scale begins anew, and a device that had [given up] takes steps again. If no rank counts, weights
//! and momentum of the last round stay. A NaN in one step skips that step, as ever; only what gets by that
//! comes here. What encoding has kept of earlier differences is always finite, since only a rank that counts
//! encodes one.
//!
//! # What is exchanged
//!
//! Trained weights alone: of an adapter a few megabytes. Running statistics of BatchNorm become the mean
//! over the ranks that count, in f32. [Averages](crate::train::Ema) stay the rank's own, of the weights that
//! it had. Weights in bf16 are rounded to nearest once a round; what bf16 does not hold of theta stays on
//! the host, and a difference counts from the weights that the device began with, so that it is no part of
//! it. A [`SnapshotRing`](crate::train::SnapshotRing) is refused: it would go back behind a round.
//!
//! # Memory and bytes
//!
//! The host has 12 bytes per trained parameter (theta, momentum, and what
//! [encoding](DifferenceEncoding) has kept of the differences; 8 with [`DifferenceEncoding::F32`]), and
//! some pieces of 4 million elements, as many encoded as there are ranks at most. The device has nothing
//! more. With N ranks and e bytes for each difference a rank sends the lesser of (N - 1) e and
//! (N - 1) / N (e + 4) bytes per parameter in a round, where data parallel sends 8 (N - 1) / N in every
//! step: with two ranks, 500 steps and f16 a thousandth.
//!
//! [given up]: crate::train::TrainerBuilder::give_up_after

mod difference;
mod guard;
mod mean;
mod outer;
mod round;
mod saved;
mod settings;

pub use difference::DifferenceEncoding;
use guard::Guard;
pub use guard::Why;
use outer::{Outer, Piece, pieces};
pub use round::{LeftOut, Round};
pub use saved::{DiLoCoCheckpoint, Resumed};
pub use settings::DiLoCoSettings;

use super::Exchange;
use super::agreement::{agree_about, compare};
use crate::data::Fingerprint;
use crate::error::{Error, Result};
use crate::train::{Batch, FrozenFingerprint, Model, Trainer};

/// A rank that trains by itself and meets the others once in
/// [so many steps](DiLoCoSettings::inner_steps); see [its module](self).
///
/// ```
/// use evenkeel::graph::{Graph, Shape};
/// use evenkeel::nn::Linear;
/// use evenkeel::train::ranks::{DiLoCo, DiLoCoSettings, Exchange, Local};
/// use evenkeel::train::{Batch, ModelOutput, Trainer};
/// use evenkeel::{Gpu, block_on};
///
/// let model = |graph: &mut Graph| {
///     let x = graph.input("x", Shape::real([2, 3]));
///     let y = graph.input("y", Shape::real([2, 1]));
///     let prediction = Linear::new(3, 1).forward(graph, "out", x);
///     ModelOutput { loss: graph.mean_squared_error(prediction, y), prediction }
/// };
/// # let Ok(gpu) = block_on(Gpu::new()) else { return Ok(()) };
/// // Ranks in one process, each in a thread; `Mpi::world()` gives this process's rank of a cluster.
/// let run = |exchange: Local| -> evenkeel::Result<Vec<f32>> {
///     let rank = exchange.rank() as f32;
///     let settings = DiLoCoSettings { inner_steps: 4, ..DiLoCoSettings::default() };
///     // No `?` here: where one rank cannot build its trainer, all are told.
///     let built = block_on(Trainer::builder(model).build(&gpu));
///     let mut diloco = block_on(DiLoCo::new(built, exchange, settings))?;
///     for step in 0..8 {
///         // Each rank has data of its own.
///         let x: Vec<f32> = (0..6).map(|i| (i as f32 + rank + step as f32) / 9.0).collect();
///         let batch = Batch::new().with("x", x).with("y", vec![1.0, -1.0]);
///         if let Some(round) = block_on(diloco.step(&batch))? {
///             round.left_out.iter().for_each(|left_out| eprintln!("{left_out}"));
///             assert_eq!((round.steps, &round.counted[..]), (4, &[0, 1][..]));
///         }
///     }
///     block_on(diloco.trainer().parameters().read("out.weight"))
/// };
/// let weights = std::thread::scope(|scope| {
///     let ranks = Local::ranks(2).into_iter().map(|exchange| scope.spawn(|| run(exchange)));
///     let ranks: Vec<_> = ranks.collect();
///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<evenkeel::Result<Vec<_>>>()
/// })?;
/// assert_eq!(weights[0], weights[1]);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct DiLoCo<M: Model> {
    trainer: Trainer<M>,
    exchange: Box<dyn Exchange>,
    settings: DiLoCoSettings,
    pieces: Vec<Piece>,
    outer: Outer,
    guard: Guard,
    /// Of the run; ranks have seeds of their own.
    seed: u32,
    rounds: u64,
    /// The steps that the trainer should have behind it.
    steps: u64,
    steps_in_round: u64,
    /// Where something is frozen.
    frozen: Option<FrozenFingerprint>,
    /// Whether a round ended in the middle.
    is_torn: bool,
}

impl<M: Model> DiLoCo<M> {
    /// Begins a run with a trainer that was built without an exchange, or with the reason why there is
    /// none: then all ranks hear of it. All ranks must have the same model, settings, weights and moments;
    /// those of an earlier run come by [`restore`](Self::restore) afterwards.
    ///
    /// # Errors
    /// [`Error::Rank`] where another rank has no trainer, or another one; [`Error::Setting`] for settings
    /// out of range, [`Error::Unsupported`] for a trainer with an exchange of its own or with a
    /// [`SnapshotRing`](crate::train::SnapshotRing), [`Error::NonFinite`] for weights that are NaN or
    /// Inf, [`Error::DeviceLost`].
    pub async fn new(
        built: Result<Trainer<M>>,
        exchange: impl Exchange + 'static,
        settings: DiLoCoSettings,
    ) -> Result<Self> {
        let built = built.and_then(|trainer| {
            settings.validate()?;
            check_trainer(&trainer)?;
            Ok(trainer)
        });
        let mut trainer = agree_about(&exchange, built)?;
        let steps = trainer.steps();
        let facts = [
            ("DiLoCo with".to_owned(), format!("{settings:?}")),
            ("steps behind it:".to_owned(), steps.to_string()),
        ];
        compare(&exchange, &facts)?;
        trainer.compare_ranks(&exchange).await?;
        let pieces = pieces(trainer.parameters.trained().iter().map(|spec| &spec.shape));
        let mut anchor = Vec::new();
        for piece in &pieces {
            anchor.extend(trainer.read_piece(piece).await?);
        }
        check_finite(&anchor)?;
        let states = trainer.read_states().await?.concat();
        let frozen = match trainer.parameters.frozen() {
            [] => None,
            _ => Some(trainer.fingerprint_of_frozen().await?),
        };
        let seed = trainer.seed;
        trainer.seed = seed_of(seed, exchange.rank());
        Ok(Self {
            outer: Outer::new(anchor, states, &settings),
            trainer,
            exchange: Box::new(exchange),
            settings,
            pieces,
            guard: Guard::default(),
            seed,
            rounds: 0,
            steps,
            steps_in_round: 0,
            frozen,
            is_torn: false,
        })
    }

    /// A step of this rank alone; after the last one of a round that round, with all ranks, which it
    /// waits for. All ranks have to take as many steps, whatever becomes of them: a device that has
    /// given up goes on to skip them, and takes part in the next round.
    ///
    /// # Errors
    /// Those of [`Trainer::step`] but [`Error::GaveUp`], and then no step was taken;
    /// [`Error::Rank`] for what is wrong on another rank in a round. A round that could not begin is
    /// tried again by the next call, in the place of a step. Where ranks leave in the middle of one, only
    /// a [checkpoint](Self::checkpoint) goes on. [`Error::Unsupported`] after that, and where
    /// the trainer took steps or went back without this.
    pub async fn step(&mut self, batch: &Batch) -> Result<Option<Round>> {
        self.check()?;
        if self.steps_in_round < self.settings.inner_steps {
            self.trainer.gave_up = None;
            self.trainer.step(batch).await?;
            self.steps += 1;
            self.steps_in_round += 1;
        }
        if self.steps_in_round < self.settings.inner_steps {
            return Ok(None);
        }
        self.round().await.map(Some)
    }

    /// Fails where the state of this rank is not that of a run.
    fn check(&self) -> Result<()> {
        let instead = "build it anew and restore a DiLoCoCheckpoint".to_owned();
        if self.is_torn {
            let what = "going on after a round that broke off".to_owned();
            return Err(Error::Unsupported { what, instead });
        }
        if self.trainer.steps() != self.steps {
            let (found, expected) = (self.trainer.steps(), self.steps);
            let what = format!("a trainer at step {found} where DiLoCo has taken it to {expected}");
            let instead = format!("take steps by DiLoCo::step alone; {instead}");
            return Err(Error::Unsupported { what, instead });
        }
        Ok(())
    }

    /// The trainer of this rank.
    pub fn trainer(&self) -> &Trainer<M> {
        &self.trainer
    }

    /// The same for telemetry, evaluations and the like. Steps and checkpoints go through this alone:
    /// after others, [`step`](Self::step) fails.
    pub fn trainer_mut(&mut self) -> &mut Trainer<M> {
        &mut self.trainer
    }

    /// The trainer alone, with the weights that it has now: after a round those of all ranks.
    pub fn into_trainer(self) -> Trainer<M> {
        self.trainer
    }

    /// The ranks, as this one sees them.
    pub fn exchange(&self) -> &dyn Exchange {
        &*self.exchange
    }

    /// The settings.
    pub fn settings(&self) -> &DiLoCoSettings {
        &self.settings
    }

    /// Rounds so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Steps since the last one.
    pub fn steps_in_round(&self) -> u64 {
        self.steps_in_round
    }

    /// Seed of the run, that of rank 0; [`Trainer::seed`] is that of this rank.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Bytes that the host has of it between two rounds.
    pub fn host_bytes(&self) -> u64 {
        let Outer { anchor, momentum, feedback, states } = &self.outer;
        [anchor, momentum, feedback, states].iter().map(|values| 4 * values.len() as u64).sum()
    }

    /// Of all that ranks have alike.
    fn fingerprint(&self) -> String {
        fingerprint(&self.outer, &self.guard, self.seed)
    }
}

fn fingerprint(outer: &Outer, guard: &Guard, seed: u32) -> String {
    let history: Vec<u8> = guard.history.iter().flat_map(|norm| norm.to_le_bytes()).collect();
    let all = [&outer.anchor, &outer.momentum, &outer.states].map(|v| bytemuck::cast_slice(v));
    let all = all.into_iter().fold(Fingerprint::new(), |all, values| all.with(values));
    all.with(&history).with(&seed.to_le_bytes()).to_string()
}

/// The seed of a rank: another for each, and that of the run for the first.
fn seed_of(run: u32, rank: usize) -> u32 {
    run.wrapping_add((rank as u32).wrapping_mul(0x9e37_79b9))
}

fn check_trainer<M: Model>(trainer: &Trainer<M>) -> Result<()> {
    let unsupported = |what: &str, instead: &str| {
        Err(Error::Unsupported { what: what.into(), instead: instead.into() })
    };
    if trainer.exchange().is_some() {
        return unsupported(
            "DiLoCo with a trainer that has an exchange of its own",
            "leave out TrainerBuilder::exchange, which is data parallel",
        );
    }
    if trainer.policies.iter().any(|active| active.policy.can_roll_back()) {
        return unsupported(
            "DiLoCo with a policy that goes back to snapshots of before a round",
            "leave out SnapshotRing, and have SpikeGuard skip: a rank that goes astray comes back with \
             the next round",
        );
    }
    Ok(())
}

fn check_finite(anchor: &[f32]) -> Result<()> {
    match anchor.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite {
            what: "the trained weights".into(),
            index,
            value: anchor[index],
            advice: "DiLoCo cannot start from it; go back to an earlier checkpoint".into(),
        }),
    }
}
