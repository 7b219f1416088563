//! A step that all ranks take together.

use std::ops::Range;

use super::joined::add_spanning;
use super::opening::{self, Opening};
use super::transfer::{How, Small};
use super::{Exchange, Ranks};
use crate::error::Result;
use crate::graph::OverRanks;
use crate::plan::Plan;
use crate::train::checkpoint::HostState;
use crate::train::sequence::Sequence;
use crate::train::trainer::{IN_FLIGHT, copy_inputs, finish};
use crate::train::{Batch, Model, Trainer};

impl<M: Model> Trainer<M> {
    /// The ranks that take part in the run, as this one sees them; none of a run by itself.
    pub fn exchange(&self) -> Option<&dyn Exchange> {
        self.settings.exchange.as_ref().map(|exchange| exchange as &dyn Exchange)
    }

    /// A step with the gradients of all ranks, which waits for them.
    pub(in crate::train) async fn step_together(&mut self, batch: &Batch) -> Result<()> {
        let counted = match self.check_not_torn() {
            Ok(()) => self.counted(batch).await,
            Err(error) => Err(error),
        };
        let order = counted.as_ref().map(|&(index, _)| self.order(index).fingerprint.clone());
        let ranks = self.ranks.as_ref().expect("a trainer with ranks");
        let exchange = ranks.exchange.clone();
        let opening = Opening {
            call: "Trainer::step".into(),
            failure: counted.as_ref().err().map(ToString::to_string),
            steps: self.attempted,
            learning_rate_factor: self.learning_rate_factor,
            compares: ranks.compares(self.attempted),
            counts: counted.as_ref().map(|(_, counts)| counts.clone()).unwrap_or_default(),
            order: order.unwrap_or_default(),
        };
        let all = opening.exchanged(&exchange);
        // What is wrong here is told as what it is.
        let (index, _) = counted?;
        let all = all?;
        opening::check(&all)?;
        if all.iter().any(|one| one.compares) {
            self.compare_ranks(&exchange).await?;
        }
        self.write_counts(index, &all);
        self.pass_and_update(index).await?;
        if let Some(ranks) = &mut self.ranks {
            ranks.are_equal = true;
        }
        self.plans.ran(index);
        self.attempted += 1;
        Ok(())
    }

    /// Writes the inputs of this rank, and lets the device count what spans the step; its counts.
    async fn counted(&mut self, batch: &Batch) -> Result<(usize, Vec<Vec<u8>>)> {
        let (index, inputs) = self.checked_plan(batch).await?;
        self.pacing.turn_to(index);
        let list = self.sequence(index).of_step(self.is_watched());
        // What is to be measured has the device to itself; and steps that others refused add up.
        if !self.pacing.is_measured(list.clone()) || self.in_flight.len() > IN_FLIGHT {
            finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        }
        self.write_inputs(index, &inputs);
        if self.plans.of(index).spanning().is_empty() {
            return Ok((index, Vec::new()));
        }
        let end = self.sequence(index).counted();
        self.submit_together(index, list.start..end, false).await?;
        let mut counts = Vec::new();
        for slot in self.plans.of(index).spanning() {
            let bytes = slot.shape.bytes() as usize;
            counts.push(self.gpu.read(&slot.buffer, slot.offset, bytes).await?);
        }
        Ok((index, counts))
    }

    /// Puts the sums over all ranks where the passes read them.
    fn write_counts(&self, index: usize, all: &[Opening]) {
        for (at, slot) in self.plans.of(index).spanning().iter().enumerate() {
            let ranks: Vec<_> = all.iter().map(|one| &one.counts[at][..]).collect();
            let sums = add_spanning(slot.shape.element, &ranks);
            self.gpu.write(&slot.buffer, slot.offset, &sums);
        }
    }

    /// Forward and backward pass, of which gradients leave as they are ready, what else they left on
    /// all ranks, and the update.
    async fn pass_and_update(&mut self, index: usize) -> Result<()> {
        let sequence = self.sequence(index);
        let list = sequence.of_step(self.is_watched());
        let has_counted = !self.plans.of(index).spanning().is_empty();
        let start = if has_counted { sequence.counted() } else { list.start };
        let passed = sequence.passed();
        self.pass_and_fold(index, start..passed).await?;
        if let Some(ranks) = &self.ranks {
            ranks.join(&self.gpu, &self.small_values(ranks, self.plans.of(index))).await?;
        }
        // All of it has run, and tells how long it took.
        finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        let rest = self.advance_sharded(index, passed..list.end).await?;
        self.submit_together(index, rest, true).await
    }

    /// What else a step's verdict and update read of the passes, and what is told of them.
    fn small_values<'a>(&'a self, ranks: &Ranks, plan: &'a Plan) -> Vec<Small<'a>> {
        let loss = Small { buffer: &self.loss, offset: 0, bytes: 4, how: How::Sum };
        let has_states = !self.parameters.states().is_empty();
        let states = has_states.then(|| Small {
            buffer: &self.sinks.staged,
            offset: 0,
            bytes: self.sinks.staged.size(),
            how: How::Joined(OverRanks::Mean),
        });
        let outputs = plan.outputs[1..].iter().zip(&ranks.joins);
        let observed = outputs.filter_map(|(slot, how)| {
            let how = How::Joined((*how)?);
            let (buffer, offset) = (&slot.buffer, slot.offset);
            Some(Small { buffer, offset, bytes: slot.shape.bytes(), how })
        });
        [loss].into_iter().chain(states).chain(observed).collect()
    }

    /// Submits a part of the step; the last one with the copies that a host snapshot is made of.
    pub(super) async fn submit_together(
        &mut self,
        index: usize,
        part: Range<usize>,
        is_last: bool,
    ) -> Result<()> {
        let plan = self.plans.of(index);
        let watch = self.watch.as_ref();
        let sequence = Sequence::new(plan, &self.update, watch, self.microbatches);
        let host = HostState { steps: self.attempted + 1, ..self.host_state() };
        let snapshots = self.host_snapshots.as_mut().filter(|_| is_last);
        let copy = snapshots.and_then(|snapshots| snapshots.copy_after(host.steps));
        let encode = |encoder: &mut wgpu::CommandEncoder, piece: Range<usize>| {
            let begin = |encoder: &mut wgpu::CommandEncoder, microbatch| {
                copy_inputs(encoder, plan, &self.step, &self.staging, microbatch);
            };
            sequence.encode(&self.gpu, encoder, piece.clone(), begin);
            if let Some(copy) = copy.filter(|_| piece.end == part.end) {
                copy.encode(encoder);
            }
        };
        let copies = copy.is_some();
        let submitted = self.pacing.submit(&self.gpu, part.clone(), encode).await?;
        self.in_flight.push_back(submitted);
        if let Some(snapshots) = self.host_snapshots.as_mut().filter(|_| copies) {
            snapshots.copied(&self.gpu, host);
        }
        Ok(())
    }
}
