//! Gradients leave the device while the backward pass goes on.
//!
//! A dispatch says what it writes, so that it is known of each piece of the gradients behind which
//! dispatch of the last microbatch nothing writes it any more: whatever adds to it, be it a second use of
//! a tensor, a microbatch, or a part of a sum. There the passes are cut. Behind each cut a piece is
//! copied to where the host can read it, and exchanged, while the device goes on with what is behind.

use std::ops::Range;
use std::rc::Rc;

use super::Ranks;
use super::folding::{Folding, Sums};
use super::transfer::{Arrivals, PIECE, Piece, pieces};
use crate::error::Result;
use crate::train::checkpoint::Hash;
use crate::train::sequence::Sequence;
use crate::train::{Model, Trainer};

/// A part of the gradients that ranks exchange at once, and when a step has finished it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientPiece {
    /// Which of the [flat buffers](Trainer::gradient_buffers).
    pub segment: usize,
    /// First byte in it.
    pub offset: u64,
    /// Bytes, 4 for each element.
    pub bytes: u64,
    /// How many dispatches of a step, over all of its microbatches, have run when nothing writes the
    /// piece any more: 0 where nothing ever does.
    pub ready: usize,
}

/// The pieces of a plan in the order in which ranks exchange them.
#[derive(Debug)]
pub(super) struct Order {
    pieces: Vec<GradientPiece>,
    /// Of segments and offsets, in order.
    pub fingerprint: String,
}

impl Order {
    fn new(pieces: Vec<GradientPiece>) -> Self {
        let mut hash = Hash::new();
        for piece in &pieces {
            hash.word(piece.segment as u32);
            hash.word((piece.offset / 4) as u32);
        }
        Self { pieces, fingerprint: hash.digits() }
    }
}

/// Pieces of gradients of at most so many bytes, the ones first that are ready first. `ready` counts
/// dispatches of the sequence.
fn in_order(sequence: &Sequence<'_>, gradients: &[wgpu::Buffer], most: u64) -> Vec<GradientPiece> {
    let pieces = pieces(gradients.iter().map(wgpu::Buffer::size), most);
    let not_written =
        |Piece { segment, offset, bytes }| GradientPiece { segment, offset, bytes, ready: 0 };
    let mut pieces: Vec<_> = pieces.into_iter().map(not_written).collect();
    for (ready, placed) in (1..).zip(sequence.dispatches(0..sequence.passed())) {
        for (buffer, written) in placed.dispatch.writes() {
            let segment = gradients.iter().position(|gradient| gradient == buffer);
            let Some(segment) = segment else { continue };
            let within = pieces.iter_mut().filter(|piece| {
                let is_behind = piece.offset >= written.end;
                let is_before = piece.offset + piece.bytes <= written.start;
                piece.segment == segment && !is_behind && !is_before
            });
            within.for_each(|piece| piece.ready = ready);
        }
    }
    // Those that are ready together as they lie.
    pieces.sort_by_key(|piece| (piece.ready, piece.segment, piece.offset));
    pieces
}

impl<M: Model> Trainer<M> {
    /// The gradients in pieces of at most so many bytes, in the order in which a step finishes them (of
    /// several lengths, a step with the longest): the last layers first, and what has several uses, as
    /// an embedding that is the head, with its last one. On several [ranks](super) pieces of 4 MiB
    /// leave the device in this order, while what comes behind them still runs.
    ///
    /// ```
    /// # use evenkeel::graph::{Graph, Shape};
    /// # use evenkeel::nn::Linear;
    /// # use evenkeel::train::{ModelOutput, Trainer};
    /// # use evenkeel::{Gpu, block_on};
    /// let model = |graph: &mut Graph| {
    ///     let x = graph.input("x", Shape::real([2, 64]));
    ///     let hidden = Linear::new(64, 64).forward(graph, "in", x);
    ///     let prediction = Linear::new(64, 64).forward(graph, "out", hidden);
    ///     ModelOutput { loss: graph.mean_squared_error(prediction, x), prediction }
    /// };
    /// # let Ok(gpu) = block_on(Gpu::new()) else { return Ok(()) };
    /// let trainer = block_on(Trainer::builder(model).build(&gpu))?;
    /// let pieces = trainer.gradient_pieces(16 << 10);
    /// // The last layer, which lies behind, is finished first.
    /// assert!(pieces[0].offset > 0 && pieces[0].ready < pieces[pieces.len() - 1].ready);
    /// # Ok::<(), evenkeel::Error>(())
    /// ```
    ///
    /// # Panics
    /// For pieces of no bytes, or of a part of 4.
    #[track_caller]
    pub fn gradient_pieces(&self, most: u64) -> Vec<GradientPiece> {
        assert!(most > 0 && most.is_multiple_of(4), "pieces of {most} bytes");
        let sequence = self.sequence(0);
        let first = sequence.of_step(false).start;
        let mut pieces = in_order(&sequence, &self.sinks.gradients, most);
        pieces.iter_mut().for_each(|piece| piece.ready = piece.ready.saturating_sub(first));
        pieces
    }

    /// The order of a plan's pieces.
    pub(super) fn order(&mut self, index: usize) -> Rc<Order> {
        let known = self.ranks.as_ref().and_then(|ranks| ranks.orders.get(index)?.clone());
        known.unwrap_or_else(|| {
            let pieces = in_order(&self.sequence(index), &self.sinks.gradients, PIECE);
            let order = Rc::new(Order::new(pieces));
            if let Some(Ranks { orders, .. }) = &mut self.ranks {
                orders.resize(orders.len().max(index + 1), None);
                orders[index] = Some(order.clone());
            }
            order
        })
    }

    /// Submits the passes, and adds up the gradients of all ranks, in place, each piece as soon as the
    /// device has it.
    pub(super) async fn pass_and_fold(&mut self, index: usize, passes: Range<usize>) -> Result<()> {
        let order = self.order(index);
        let ranks = self.ranks.as_ref().expect("a trainer with ranks");
        let arrivals = Arrivals::new(&self.gpu, &ranks.staging, &self.sinks.gradients);
        let folding = Folding::new(&ranks.exchange, order.pieces.len());
        let mut leaving = Leaving { passes, rest: order.pieces.iter(), arrivals, folding };
        let folded = self.fold_as_ready(index, &mut leaving).await;
        if folded.is_err() {
            leaving.arrivals.settle().await;
        }
        folded
    }

    async fn fold_as_ready(&mut self, index: usize, leaving: &mut Leaving<'_>) -> Result<()> {
        loop {
            while leaving.arrivals.has_room() {
                let piece = leaving.rest.next();
                let Range { start, end } = leaving.passes;
                let end = piece.map_or(end, |piece| piece.ready.max(start));
                if start < end {
                    self.submit_together(index, start..end, false).await?;
                    leaving.passes.start = end;
                }
                let Some(&GradientPiece { segment, offset, bytes, .. }) = piece else { break };
                leaving.arrivals.request(Piece { segment, offset, bytes });
            }
            let Some((piece, bytes)) = leaving.arrivals.next().await? else { break };
            let sums = leaving.folding.push(piece, bytes)?;
            self.put_back(sums);
        }
        while let Some(sums) = leaving.folding.pop()? {
            self.put_back(Some(sums));
        }
        Ok(())
    }

    /// Nothing of the passes writes there any more.
    fn put_back(&self, sums: Option<Sums<Piece>>) {
        if let Some((piece, bytes)) = sums {
            self.gpu.write(&self.sinks.gradients[piece.segment], piece.offset, &bytes);
        }
    }
}

/// Gradients on their way from the passes to other ranks and back.
struct Leaving<'a> {
    /// Dispatches that were not submitted yet.
    passes: Range<usize>,
    /// Pieces that were not asked for yet.
    rest: std::slice::Iter<'a, GradientPiece>,
    arrivals: Arrivals,
    folding: Folding<Piece>,
}
