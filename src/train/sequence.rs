//! The dispatches of a step in order, as one list that can be cut anywhere.
//!
//! ```text
//! keep | prologue | count_next ... count_next | first pass | next ... next | update | watch
//! ```
//!
//! The prologue counts over all microbatches what the first one must know already; with a single one
//! it is the front of its pass. `keep` and `watch` measure tensors, in watched steps only: other steps
//! are a part of this list.

use std::ops::Range;

use super::tensor_telemetry::TensorWatch;
use crate::gpu::{Dispatch, Gpu, Timestamps};
use crate::plan::Plan;

/// A list of dispatches within the step, and the microbatch it begins.
type Part<'a> = (&'a [Dispatch], Option<usize>);

/// A dispatch within the step.
pub(super) struct Placed<'a> {
    pub dispatch: &'a Dispatch,
    /// `None` for the update.
    pub microbatch: Option<usize>,
    /// Whether the inputs of the microbatch are to be brought into place in front of it.
    pub begins: bool,
}

/// The lists that make a step.
#[derive(Debug)]
pub(super) struct Sequence<'a> {
    parts: Vec<Part<'a>>,
    kept: usize,
    counted: usize,
    updated: usize,
    watched: usize,
}

impl<'a> Sequence<'a> {
    pub fn new(
        plan: &'a Plan,
        update: &'a [Dispatch],
        watch: Option<&'a TensorWatch>,
        microbatches: usize,
    ) -> Self {
        let keep = watch.map_or(&[][..], |watch| &watch.keep);
        let watched = watch.map_or(&[][..], |watch| &watch.dispatches);
        let later = |list: &'a Vec<Dispatch>| {
            (1..microbatches).map(move |microbatch| (&list[..], Some(microbatch)))
        };
        let mut parts = vec![(keep, None)];
        let counted = plan.prologue().len() + (microbatches - 1) * plan.count_next.len();
        if microbatches == 1 || plan.count_next.is_empty() {
            parts.push((&plan.first, Some(0)));
        } else {
            parts.push((plan.prologue(), Some(0)));
            parts.extend(later(&plan.count_next));
            parts.push((plan.first_pass(), Some(0)));
        }
        parts.extend(later(&plan.next));
        parts.extend([(update, None), (watched, None)]);
        let (kept, updated, watched) = (keep.len(), update.len(), watched.len());
        Self { parts, kept, counted, updated, watched }
    }

    /// Where the prologue of all microbatches ends.
    pub fn counted(&self) -> usize {
        self.kept + self.counted
    }

    /// Where the last backward pass ends, and the update begins.
    pub fn passed(&self) -> usize {
        self.len() - self.watched - self.updated
    }

    /// Dispatches of a watched step.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|(list, _)| list.len()).sum()
    }

    /// The part of the list that a step consists of.
    pub fn of_step(&self, watched: bool) -> Range<usize> {
        if watched { 0..self.len() } else { self.kept..self.len() - self.watched }
    }

    /// Name of a dispatch's kernel.
    pub fn name(&self, index: usize) -> &'static str {
        self.parts.iter().flat_map(|(list, _)| *list).nth(index).expect("in the list").name
    }

    /// Some of the dispatches.
    pub fn dispatches(&self, piece: Range<usize>) -> impl Iterator<Item = Placed<'a>> {
        let all = self.parts.iter().flat_map(|&(list, microbatch)| {
            let begins = move |at| at == 0 && microbatch.is_some();
            let placed = move |(at, dispatch)| Placed { dispatch, microbatch, begins: begins(at) };
            list.iter().enumerate().map(placed)
        });
        all.skip(piece.start).take(piece.len())
    }

    /// Encodes some of the dispatches; `begin` encodes what comes in front of a microbatch.
    pub fn encode(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        piece: Range<usize>,
        begin: impl Fn(&mut wgpu::CommandEncoder, usize),
    ) {
        let mut start = 0;
        let mut pass: Vec<&[Dispatch]> = Vec::new();
        for &(list, microbatch) in &self.parts {
            let first = piece.start.max(start) - start;
            let end = piece.end.min(start + list.len()).saturating_sub(start);
            if first < end {
                if let (Some(microbatch), 0) = (microbatch, first) {
                    encode_pass(gpu, encoder, &mut pass);
                    begin(encoder, microbatch);
                }
                pass.push(&list[first..end]);
            }
            start += list.len();
        }
        encode_pass(gpu, encoder, &mut pass);
    }

    /// The same, with each dispatch in a pass of its own, between two timestamps.
    pub fn stamp(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        piece: Range<usize>,
        begin: impl Fn(&mut wgpu::CommandEncoder, usize),
        timestamps: &Timestamps,
    ) {
        for (index, placed) in piece.clone().zip(self.dispatches(piece)) {
            if let (Some(microbatch), true) = (placed.microbatch, placed.begins) {
                begin(encoder, microbatch);
            }
            timestamps.encode(gpu, encoder, index, placed.dispatch);
        }
    }
}

/// Encodes and forgets what was collected for a compute pass.
fn encode_pass(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, pass: &mut Vec<&[Dispatch]>) {
    if !pass.is_empty() {
        gpu.encode(encoder, pass.drain(..).flatten());
    }
}
