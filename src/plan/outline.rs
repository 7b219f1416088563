//! What a plan takes, before there is a buffer: which nodes it needs, how long their values live,
//! which of them share a slot, and how many bytes all that makes.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::copies::{Copied, copy_bytes, take_copies};
use super::lifetimes::lifetimes;
use super::parameters::{ParameterLayout, check_binding};
use super::shared::{assign, lasting, own_slots};
use super::sinks::{Contribution, Target, check_gradients, contributions};
use super::slots::{self, Assignment, Lifetime};
use super::{leaves, needed};
use crate::error::Result;
use crate::gpu::{MemoryLimits, buffer_bytes};
use crate::graph::{Graph, Shape, Source, Value};
use crate::kernel::Precision;
use crate::record::{Extent, Machine};

/// What there is of a plan without buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOutline<'a> {
    pub graph: &'a Graph,
    /// Values to keep readable.
    pub outputs: &'a [Value],
    pub layout: &'a ParameterLayout,
    /// Whether gradients and new states go anywhere.
    pub trains: bool,
    pub limits: MemoryLimits,
}

/// What a plan has to do.
#[derive(Debug)]
pub(super) struct Work {
    /// Whether a node is needed, by node; copies of parameters are not, as nodes.
    pub needed: Vec<bool>,
    pub copied: Vec<Copied>,
    pub contributions: Vec<Contribution>,
    /// Which parameter and state of the layout those of the graph are.
    pub parameter_index: Vec<usize>,
    pub state_index: Vec<usize>,
}

/// The slots of a plan.
#[derive(Debug)]
pub(super) struct SlotOutline {
    /// Of each value that lives in one.
    pub lifetimes: Vec<(Value, Lifetime)>,
    pub assignment: Assignment,
    /// Which slots no other plan may have.
    pub own: Vec<bool>,
}

impl PlanOutline<'_> {
    pub(super) fn work(&self) -> Result<Work> {
        let &Self { graph, outputs, layout, trains, .. } = self;
        let (parameter_index, state_index) = layout.index_of(graph)?;
        if trains {
            check_gradients(graph, layout, &parameter_index)?;
        }
        let mut needed = needed(graph, outputs, trains);
        let copied = take_copies(graph, layout, &parameter_index, &mut needed);
        let contributions = if trains {
            contributions(graph, outputs, &parameter_index, &state_index)
        } else {
            Vec::new()
        };
        Ok(Work { needed, copied, contributions, parameter_index, state_index })
    }

    /// The slots of all values but those that are `placed`, or go where a gradient goes.
    pub(super) fn slots(
        &self,
        work: &Work,
        placed: impl IntoIterator<Item = Value>,
    ) -> Result<SlotOutline> {
        let &Self { graph, outputs, limits, .. } = self;
        let in_place = work.contributions.iter().filter(|one| one.in_place).map(|one| one.value);
        let placed: HashSet<_> = placed.into_iter().chain(in_place).collect();
        let lifetimes = lifetimes(graph, outputs, &work.needed, &placed);
        for (value, _) in &lifetimes {
            let label = &graph.nodes()[value.node].label;
            check_binding(limits.largest_binding, label, graph.shape(*value))?;
        }
        for node in leaves(graph, &work.needed) {
            check_binding(limits.largest_binding, &node.label, &node.shapes[0])?;
        }
        let lives: Vec<_> = lifetimes.iter().map(|&(_, life)| life).collect();
        let assignment = slots::assign(&lives);
        let own = own_slots(graph, &lifetimes, &assignment.slot, assignment.bytes.len());
        Ok(SlotOutline { lifetimes, assignment, own })
    }

    /// The most that the dispatches of one operation hand on to each other, in bytes.
    fn scratch_bytes(&self, work: &Work) -> u64 {
        let &Self { graph, limits, .. } = self;
        let extents = self.extents_in_parts(work);
        let extent = |value: &Value| {
            let whole = || Extent::whole(graph.shape(*value).clone());
            extents.get(value).cloned().unwrap_or_else(whole)
        };
        let nodes = graph.nodes().iter().zip(&work.needed).filter(|(_, needed)| **needed);
        let bytes = nodes.map(|(node, _)| {
            let Source::Op(op) = &node.source else { return 0 };
            let inputs: Vec<_> = node.inputs.iter().map(extent).collect();
            let outputs: Vec<_> =
                (0..node.shapes.len()).map(|output| extent(&node.output(output))).collect();
            let machine = Machine::new(limits, graph.native_f16(), node.precision);
            op.scratch_bytes(machine, &inputs, &outputs)
        });
        bytes.max().unwrap_or(0)
    }

    /// Parameters that lie in parts, their copies, and their gradients.
    fn extents_in_parts(&self, work: &Work) -> HashMap<Value, Extent> {
        let &Self { graph, layout, .. } = self;
        let mut all = HashMap::new();
        let mut add = |value: Value, index: usize| {
            if layout.is_in_parts(index) {
                let part_rows = layout.parts_of(index).iter().map(|part| part.rows.len()).collect();
                all.insert(value, Extent { shape: graph.shape(value).clone(), part_rows });
            }
        };
        for node in graph.nodes() {
            if let Source::Parameter(parameter) = node.source {
                add(node.output(0), work.parameter_index[parameter]);
            }
        }
        for copied in &work.copied {
            add(copied.value, work.parameter_index[copied.parameter]);
        }
        for one in work.contributions.iter().filter(|one| one.in_place) {
            if let Target::Gradient(index) = one.target {
                add(one.value, index);
            }
        }
        all
    }
}

/// Bytes that a plan takes, beside those that plans before it have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanBytes {
    /// Slots of values.
    pub slots: u64,
    /// What dispatches of one operation hand on to each other.
    pub scratch: u64,
    pub inputs: u64,
    pub constants: u64,
    /// Copies of parameters in another precision.
    pub copies: u64,
    /// Which inputs of the graph it has.
    pub used_inputs: Vec<usize>,
}

/// What [`SharedBuffers`](super::SharedBuffers) would have, of plans that are made one after the
/// other.
#[derive(Debug, Default)]
pub(crate) struct SharedBytes {
    slots: Vec<u64>,
    /// Shapes of what outlives a pass.
    kept: Vec<Shape>,
    copies: BTreeSet<Precision>,
    scratch: u64,
}

impl SharedBytes {
    /// What the next plan takes.
    ///
    /// # Errors
    /// As [`Plan::new`](super::Plan::new), but for what only recording shows.
    pub fn add(&mut self, outline: &PlanOutline<'_>) -> Result<PlanBytes> {
        let &PlanOutline { graph, outputs, layout, .. } = outline;
        let work = outline.work()?;
        let lasting = lasting(graph, outputs, &work.needed);
        let pairs = lasting.iter().zip(&self.kept);
        let same = pairs.filter(|&(value, shape)| graph.shape(*value) == shape);
        let slots = outline.slots(&work, same.map(|(value, _)| *value))?;
        let bytes = &slots.assignment.bytes;
        let (chosen, slot_bytes) = assign(&self.slots, bytes, &slots.own);

        let precisions: BTreeSet<_> = work.copied.iter().map(|copied| copied.precision).collect();
        let new = precisions.into_iter().filter(|&precision| self.copies.insert(precision));
        let copies = new.map(|precision| copy_bytes(layout, precision).sum::<u64>()).sum();
        let scratch = match outline.scratch_bytes(&work) {
            0 => 0,
            bytes => buffer_bytes(bytes).saturating_sub(self.scratch),
        };
        let leaf_bytes = |is_input: bool| -> u64 {
            let wanted = leaves(graph, &work.needed)
                .filter(|node| matches!(node.source, Source::Input(_)) == is_input);
            wanted.map(|node| node.shapes[0].bytes()).sum()
        };
        let (inputs, constants) = (leaf_bytes(true), leaf_bytes(false));

        self.scratch += scratch;
        if self.kept.is_empty() {
            self.kept = lasting.iter().map(|&value| graph.shape(value).clone()).collect();
        }
        let places = slots.lifetimes.iter().zip(&slots.assignment.slot);
        let lasts: HashSet<_> = places
            .filter(|((value, _), _)| lasting.contains(value))
            .map(|(_, &slot)| slot)
            .collect();
        let is_left =
            |&slot: &usize| chosen[slot].is_none() && !slots.own[slot] && !lasts.contains(&slot);
        self.slots.extend((0..bytes.len()).filter(is_left).map(|slot| bytes[slot]));
        let used_inputs = leaves(graph, &work.needed).filter_map(|node| match node.source {
            Source::Input(input) => Some(input),
            _ => None,
        });
        let used_inputs = used_inputs.collect();
        Ok(PlanBytes { slots: slot_bytes, scratch, inputs, constants, copies, used_inputs })
    }
}
