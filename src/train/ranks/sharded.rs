//! A sharded optimizer (ZeRO stage 1) in a step: what each rank has advanced goes to all others.

use std::collections::VecDeque;
use std::ops::Range;

use super::exchange::Begun;
use super::folding::AT_ONCE;
use super::opening::{self, Opening};
use super::shards::Shards;
use super::transfer::{Arrivals, PIECE, Piece};
use super::{Exchange, Ranks};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::Parameters;
use crate::train::trainer::finish;
use crate::train::{Model, Trainer};

/// The least bytes of a rank in an exchange, where there are enough.
const LEAST: u64 = 64 << 10;
/// Bytes that go to all ranks at once.
const SPREAD: usize = 64 << 20;

/// How ranks share what each of them advances.
#[derive(Debug)]
pub(super) struct Sharded {
    /// Dispatches of the update until weights and moments have advanced.
    advanced: usize,
    /// By rank, what goes to the others: of each an entry in every exchange, as long as it has some.
    pieces: Vec<Vec<Piece>>,
    /// By trained tensor, which rank keeps all of its moments.
    owners: Vec<Option<usize>>,
    /// Whether the weights of some ranges are a step ahead of others.
    is_torn: bool,
}

impl Sharded {
    /// None where the optimizer is not sharded.
    pub fn new(shards: Shards, parameters: &Parameters, advanced: usize) -> Option<Self> {
        let of_rank = |rank| pieces(&shards, parameters, rank);
        shards.is_cut().then(|| Self {
            advanced,
            pieces: (0..shards.ranks()).map(of_rank).collect(),
            owners: shards.owners(parameters.layout()),
            is_torn: false,
        })
    }

    /// By rank, where its piece lies in what a round brings.
    fn parts(&self, round: usize) -> Vec<Range<usize>> {
        let mut end = 0;
        let part = |of_rank: &Vec<Piece>| {
            let start = end;
            end += of_rank.get(round).map_or(0, |piece| piece.bytes as usize);
            start..end
        };
        self.pieces.iter().map(part).collect()
    }
}

/// The weights of a rank's range in pieces of which those of all ranks fit into an exchange. What is
/// kept beside the weights, in the second half of their buffer, goes with them.
fn pieces(shards: &Shards, parameters: &Parameters, rank: usize) -> Vec<Piece> {
    let most = (PIECE / shards.ranks() as u64).max(LEAST).next_multiple_of(16);
    let storage = parameters.storage();
    let halves = storage.quad_bytes() / storage.precision().quad_bytes();
    let mut pieces = Vec::new();
    for (segment, weights) in parameters.trained_weights().iter().enumerate() {
        let quads = shards.range(segment, rank);
        let [first, end] =
            [quads.start, quads.end].map(|quad| storage.precision().quad_bytes() * u64::from(quad));
        for half in 0..halves {
            let base = half * (weights.size() / halves);
            pieces.extend((first..end).step_by(most as usize).map(|start| Piece {
                segment,
                offset: base + start,
                bytes: most.min(end - start),
            }));
        }
    }
    pieces
}

impl Ranks {
    /// The run goes on from a checkpoint, or anew.
    pub fn begin_anew(&mut self) {
        self.are_equal = false;
        if let Some(sharded) = &mut self.sharded {
            sharded.is_torn = false;
        }
    }

    /// Gives all ranks the weights of each one's range. While some pieces are on the network, the next
    /// ones come from the device.
    async fn share_weights(
        &self,
        gpu: &Gpu,
        sharded: &Sharded,
        weights: &[wgpu::Buffer],
    ) -> Result<()> {
        let mut arrivals = Arrivals::new(gpu, &self.staging, weights);
        let shared = self.share_arriving(gpu, sharded, weights, &mut arrivals).await;
        if shared.is_err() {
            arrivals.settle().await;
        }
        shared
    }

    async fn share_arriving(
        &self,
        gpu: &Gpu,
        sharded: &Sharded,
        weights: &[wgpu::Buffer],
        arrivals: &mut Arrivals,
    ) -> Result<()> {
        let mut rest = sharded.pieces[self.exchange.rank()].iter();
        let rounds = sharded.pieces.iter().map(Vec::len).max().unwrap_or(0);
        let mut under_way = VecDeque::new();
        for round in 0..rounds {
            while arrivals.has_room()
                && let Some(&piece) = rest.next()
            {
                arrivals.request(piece);
            }
            let own = arrivals.next().await?.map_or(Vec::new(), |(_, bytes)| bytes);
            under_way.push_back((round, self.begin_round(sharded, round, &own)?));
            if under_way.len() >= AT_ONCE {
                self.end_round(gpu, sharded, weights, under_way.pop_front())?;
                // What was written goes to the device as it comes.
                gpu.submit(gpu.device.create_command_encoder(&Default::default()));
            }
        }
        while !under_way.is_empty() {
            self.end_round(gpu, sharded, weights, under_way.pop_front())?;
        }
        Ok(())
    }

    /// Begins an exchange of one piece of each rank that has so many.
    fn begin_round(&self, sharded: &Sharded, round: usize, own: &[u8]) -> Result<Begun> {
        let parts = sharded.parts(round);
        let mut all = vec![0; parts.last().map_or(0, |part| part.end)];
        all[parts[self.exchange.rank()].clone()].copy_from_slice(own);
        self.exchange.begin_share(all, &parts)
    }

    /// Puts what others sent into its place.
    fn end_round(
        &self,
        gpu: &Gpu,
        sharded: &Sharded,
        weights: &[wgpu::Buffer],
        begun: Option<(usize, Begun)>,
    ) -> Result<()> {
        let Some((round, begun)) = begun else { return Ok(()) };
        let all = self.exchange.end(begun)?;
        let pieces = sharded.pieces.iter().map(|of_rank| of_rank.get(round));
        for (rank, (piece, part)) in pieces.zip(sharded.parts(round)).enumerate() {
            if let Some(piece) = piece.filter(|_| rank != self.exchange.rank()) {
                gpu.write(&weights[piece.segment], piece.offset, &all[part]);
            }
        }
        Ok(())
    }

    /// Puts on each rank what is known of a tensor where the one that keeps its moments found it;
    /// -1 where no rank keeps all of them.
    async fn share_eps_shares(
        &self,
        gpu: &Gpu,
        sharded: &Sharded,
        shares: &wgpu::Buffer,
    ) -> Result<()> {
        let count = sharded.owners.len();
        let own: Vec<f32> = gpu.read(shares, 0, count).await?;
        let ranks = self.exchange.gather(bytemuck::cast_slice(&own))?;
        let ranks: Vec<Vec<f32>> =
            ranks.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        let owners = sharded.owners.iter().enumerate();
        let known = owners.map(|(tensor, owner)| owner.map_or(-1.0, |rank| ranks[rank][tensor]));
        gpu.write(shares, 0, bytemuck::cast_slice(&known.collect::<Vec<f32>>()));
        Ok(())
    }
}

/// Gives all ranks what rank `from` has in `bytes`, of which all have as many.
pub(in crate::train) fn spread(
    exchange: &dyn Exchange,
    from: usize,
    bytes: &mut [u8],
) -> Result<()> {
    for piece in bytes.chunks_mut(SPREAD) {
        let length = piece.len();
        let part = |rank: usize| match rank.cmp(&from) {
            std::cmp::Ordering::Less => 0..0,
            std::cmp::Ordering::Equal => 0..length,
            std::cmp::Ordering::Greater => length..length,
        };
        let parts: Vec<_> = (0..exchange.size()).map(part).collect();
        exchange.share(piece, &parts)?;
    }
    Ok(())
}

impl<M: Model> Trainer<M> {
    fn sharded(&self) -> Option<(&Ranks, &Sharded)> {
        let ranks = self.ranks.as_ref()?;
        Some((ranks, ranks.sharded.as_ref()?))
    }

    /// Whether this rank keeps the moments of its range alone.
    pub(in crate::train) fn is_sharded(&self) -> bool {
        self.sharded().is_some()
    }

    /// The ranks that keep all moments together; none of an optimizer that is not sharded.
    pub(in crate::train) fn shard_holders(&self) -> Option<&dyn Exchange> {
        self.sharded().map(|(ranks, _)| &ranks.exchange as &dyn Exchange)
    }

    /// Fails where weights of some ranges are a step ahead of others.
    pub(in crate::train) fn check_not_torn(&self) -> Result<()> {
        if !self.sharded().is_some_and(|(_, sharded)| sharded.is_torn) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "going on after a step that ended while ranks shared their weights".into(),
            instead:
                "restore a checkpoint, or rebuild the trainer: not all weights are of the same \
                      step"
                    .into(),
        })
    }

    /// Where the optimizer is sharded: tells all ranks of a call that all have to make, and fails
    /// unless they do and can.
    pub(in crate::train) fn open_together(
        &self,
        call: &str,
        failure: Option<&Error>,
    ) -> Result<()> {
        let Some(exchange) = self.shard_holders() else { return Ok(()) };
        let opening = Opening {
            call: call.into(),
            failure: failure.map(ToString::to_string),
            steps: self.attempted,
            learning_rate_factor: self.learning_rate_factor,
            ..Opening::default()
        };
        opening::check(&opening.exchanged(exchange)?)
    }

    /// The update as far as ranks have something to tell each other in it. Returns the rest.
    pub(super) async fn advance_sharded(
        &mut self,
        index: usize,
        update: Range<usize>,
    ) -> Result<Range<usize>> {
        let Some((_, sharded)) = self.sharded() else { return Ok(update) };
        let advanced = update.start + sharded.advanced;
        self.set_torn(true);
        self.submit_together(index, update.start..advanced, false).await?;
        if let Some((ranks, sharded)) = self.sharded() {
            let weights = self.parameters.trained_weights();
            ranks.share_weights(&self.gpu, sharded, weights).await?;
        }
        self.set_torn(false);
        finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        if !self.is_watched() {
            return Ok(advanced..update.end);
        }
        let last = update.end - 1;
        self.submit_together(index, advanced..last, false).await?;
        if let (Some((ranks, sharded)), Some(watch)) = (self.sharded(), &self.watch) {
            ranks.share_eps_shares(&self.gpu, sharded, &watch.eps_shares).await?;
        }
        Ok(last..update.end)
    }

    fn set_torn(&mut self, is_torn: bool) {
        if let Some(sharded) = self.ranks.as_mut().and_then(|ranks| ranks.sharded.as_mut()) {
            sharded.is_torn = is_torn;
        }
    }
}
