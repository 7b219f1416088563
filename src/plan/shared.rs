//! What plans over the same parameters have in common, so that a second one takes little: for another
//! length of sequences, say. They run one after the other, never at once.
//!
//! A value that lives within a pass may lie where another plan has its own. What outlives a pass
//! (requested outputs, what is observed, what spans the step) has one place for all plans in which it
//! has the same shape: whoever reads it finds it there whichever plan ran last, and it adds up over
//! microbatches of different plans.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::lifetimes::is_padded;
use super::slots::Lifetime;
use super::{InputSlot, PlanRequest, prologue};
use crate::gpu::Gpu;
use crate::graph::{Graph, Node, Source, Value};
use crate::kernel::Precision;
use crate::record::Slot;

/// The buffers of the plans made so far. Empty before the first, which then is a plan like any other.
#[derive(Debug, Default)]
pub struct SharedBuffers {
    /// Of values that live within a pass.
    slots: Vec<wgpu::Buffer>,
    /// What outlives a pass, in the order of [`lasting`].
    kept: Vec<Slot>,
    /// Inputs that later plans have too.
    inputs: Vec<InputSlot>,
    /// The weights in another precision than that of their storage.
    pub(super) copies: BTreeMap<Precision, Vec<wgpu::Buffer>>,
    /// What dispatches of one operation hand on to each other.
    pub(super) scratch: Option<wgpu::Buffer>,
}

/// The values of operations that outlive a pass: the same for all plans of a model, in this order.
pub(super) fn lasting(graph: &Graph, outputs: &[Value], needed: &[bool]) -> Vec<Value> {
    let observed = graph.observations().iter().map(|&(_, value)| value);
    let nodes = graph.nodes().iter().filter(|node| prologue::spans_step(&node.source));
    let spanning = nodes.flat_map(|node| (0..node.shapes.len()).map(|o| node.output(o)));
    let all = outputs.iter().copied().chain(observed).chain(spanning);
    let mut seen = HashSet::new();
    let is_made = |value: &Value| {
        let is_operation = matches!(graph.nodes()[value.node].source, Source::Op(_));
        is_operation && needed[value.node] && seen.insert(*value)
    };
    all.filter(is_made).collect()
}

impl SharedBuffers {
    /// Later plans have these inputs where they have the same: in name, shape and bound. So several
    /// plans work on one cache.
    pub fn share_inputs(&mut self, inputs: &[InputSlot]) {
        self.inputs.extend_from_slice(inputs);
    }

    /// Where a node's input lies already.
    pub(super) fn input(&self, graph: &Graph, node: &Node) -> Option<wgpu::Buffer> {
        let Source::Input(index) = node.source else { return None };
        let found = self.inputs.iter().find(|input| input.spec == graph.inputs()[index]);
        found.map(|input| input.buffer.clone())
    }

    /// Where this plan has to have its values that outlive a pass, as far as another plan has them.
    pub(super) fn places(
        &self,
        request: &PlanRequest<'_>,
        needed: &[bool],
    ) -> HashMap<Value, Slot> {
        let values = lasting(request.graph, request.outputs, needed);
        let pairs = values.into_iter().zip(&self.kept);
        let same = pairs.filter(|(value, slot)| request.graph.shape(*value) == &slot.shape);
        same.map(|(value, slot)| (value, slot.clone())).collect()
    }

    /// A buffer for each slot: the smallest of those that are there and large enough, or a new one.
    /// Slots of values with padding that must stay zero are new. Second, the bytes of new ones.
    pub(super) fn assign(&self, bytes: &[u64], is_own: &[bool]) -> (Vec<Option<usize>>, u64) {
        let sizes: Vec<_> = self.slots.iter().map(wgpu::Buffer::size).collect();
        assign(&sizes, bytes, is_own)
    }

    /// The buffers of the slots as they were assigned.
    pub(super) fn buffers(
        &self,
        gpu: &Gpu,
        bytes: &[u64],
        chosen: &[Option<usize>],
    ) -> Vec<wgpu::Buffer> {
        let buffer = |(&bytes, &chosen): (&u64, &Option<usize>)| match chosen {
            Some(index) => self.slots[index].clone(),
            None => gpu.buffer("slot", bytes),
        };
        bytes.iter().zip(chosen).map(buffer).collect()
    }

    /// Leaves to later plans what this one has: its slots, but for those of padded values, and of
    /// values that outlive a pass.
    pub(super) fn keep(
        &mut self,
        request: &PlanRequest<'_>,
        needed: &[bool],
        values: &HashMap<Value, Slot>,
        pool: &[wgpu::Buffer],
        is_own: &[bool],
    ) {
        let lasting = lasting(request.graph, request.outputs, needed);
        if self.kept.is_empty() {
            self.kept = lasting.iter().map(|value| values[value].clone()).collect();
        }
        let lasts =
            |buffer: &wgpu::Buffer| lasting.iter().any(|value| values[value].buffer == *buffer);
        for (buffer, _) in pool.iter().zip(is_own).filter(|(_, is_own)| !**is_own) {
            if !lasts(buffer) && !self.slots.contains(buffer) {
                self.slots.push(buffer.clone());
            }
        }
    }
}

/// Which of the slots that are there, of these sizes, each of others is to have: see
/// [`SharedBuffers::assign`].
pub(super) fn assign(sizes: &[u64], bytes: &[u64], is_own: &[bool]) -> (Vec<Option<usize>>, u64) {
    let mut order: Vec<_> = (0..bytes.len()).filter(|&slot| !is_own[slot]).collect();
    order.sort_by_key(|&slot| Reverse(bytes[slot]));
    let mut taken = vec![false; sizes.len()];
    let mut chosen = vec![None; bytes.len()];
    for slot in order {
        let fits = (0..taken.len()).filter(|&i| !taken[i] && sizes[i] >= bytes[slot]);
        chosen[slot] = fits.min_by_key(|&i| sizes[i]);
        chosen[slot].into_iter().for_each(|i| taken[i] = true);
    }
    let new = bytes.iter().zip(&chosen).filter(|(_, chosen)| chosen.is_none());
    let new = new.map(|(bytes, _)| bytes).sum();
    (chosen, new)
}

/// Which slots no other plan may have: those of values with padding that must stay zero.
pub(super) fn own_slots(
    graph: &Graph,
    lifetimes: &[(Value, Lifetime)],
    slots: &[usize],
    count: usize,
) -> Vec<bool> {
    let mut is_own = vec![false; count];
    for (&(value, _), &slot) in lifetimes.iter().zip(slots) {
        is_own[slot] |= is_padded(graph.shape(value));
    }
    is_own
}
