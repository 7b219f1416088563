//! A graph recorded into a static list of dispatches, replayed every step.
//!
//! Making a [`Plan`] decides everything once: which nodes are needed, which buffer holds which
//! value ([`slots`]), and every pipeline, uniform block and bind group. A step only encodes the
//! list. With gradient accumulation there are two lists over the same buffers: the first
//! microbatch overwrites gradients, the later ones add to them. What a step has to know of all its
//! microbatches before the first one runs, such as how many targets count, is the front of the first
//! list, and a third list for the others.

mod copies;
mod dispatches;
mod layout;
mod lifetimes;
mod outline;
pub mod parameters;
mod part_checks;
pub mod parts;
mod prologue;
mod shared;
mod sinks;
pub mod slots;

use std::collections::HashMap;
use std::ops::Range;

use copies::Copies;
pub(crate) use outline::{PlanBytes, PlanOutline, SharedBytes};
use outline::{SlotOutline, Work};
pub use parameters::{ParameterLayout, Parameters};
pub use shared::SharedBuffers;
pub use sinks::Sinks;

use crate::error::Result;
use crate::gpu::{Dispatch, Gpu};
use crate::graph::{Graph, InputSpec, Node, Shape, Source, Value};
use crate::kernel::Precision;
use crate::record::{Recorder, Slot, StepBuffers};

/// What a plan is made of.
#[derive(Debug)]
pub struct PlanRequest<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Values to keep readable.
    pub outputs: &'a [Value],
    /// The model's tensors; they may hold more than the graph uses.
    pub parameters: &'a Parameters,
    /// Where gradients and new states go; `None` for a graph without.
    pub sinks: Option<&'a Sinks>,
    /// The step's steering blocks.
    pub step: &'a StepBuffers,
    /// With more than one, a second list of dispatches that add to the gradients is recorded.
    pub microbatches: usize,
}

/// What a plan costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Nodes recorded.
    pub nodes: usize,
    /// Values that live in slots.
    pub values: usize,
    /// Slots they share.
    pub slots: usize,
    /// Bytes of the slots, and of what dispatches of one operation hand on to each other. Where
    /// plans [share their buffers](Plan::sharing), those that no plan before had.
    pub slot_bytes: u64,
    /// Bytes the values would take without sharing.
    pub value_bytes: u64,
    /// Bytes of inputs and constants.
    pub leaf_bytes: u64,
    /// Bytes of the copies of parameters in another precision than that of their storage; of shared
    /// ones as above.
    pub copy_bytes: u64,
    /// Dispatches of one microbatch.
    pub dispatches: usize,
    /// Dispatches by kernel, most frequent first.
    pub kernels: Vec<(&'static str, usize)>,
}

/// An input's buffer.
#[derive(Clone, Debug)]
pub struct InputSlot {
    /// Name, shape and bound.
    pub spec: InputSpec,
    /// One microbatch.
    pub buffer: wgpu::Buffer,
}

/// A node of the graph as the plan has it, and its share of the dispatches.
#[derive(Debug)]
pub struct RecordedNode {
    /// What the node is.
    pub source: Source,
    /// Scope and name.
    pub label: String,
    /// The values it reads.
    pub inputs: Vec<Value>,
    /// What it gives, and where that lies right after its dispatches.
    pub outputs: Vec<(Value, Slot)>,
    /// Its dispatches in [`Plan::first`]; none for leaves, for copies of parameters, and for what
    /// [spans the step](crate::graph::Op::spans_step).
    pub first: Range<usize>,
    /// Its dispatches in [`Plan::next`].
    pub next: Range<usize>,
}

/// A recorded graph.
#[derive(Debug)]
pub struct Plan {
    /// Dispatches of the first microbatch of a step: all that a step of one microbatch takes.
    pub first: Vec<Dispatch>,
    /// How many of [`first`](Self::first), at its front, copy parameters into another precision:
    /// until these change, later runs may leave them out.
    pub copies: usize,
    /// Dispatches of each later microbatch.
    pub next: Vec<Dispatch>,
    /// How many of [`first`](Self::first) are its [`prologue`](Self::prologue).
    prologue: usize,
    /// Where the values lie that span the step.
    spanning: Vec<Slot>,
    /// What the prologue is for each later microbatch, to run behind it, with that microbatch's
    /// inputs; empty where nothing [spans the step](crate::graph::Op::spans_step).
    pub count_next: Vec<Dispatch>,
    /// The inputs to write before a replay.
    pub inputs: Vec<InputSlot>,
    /// Where the requested outputs lie.
    pub outputs: Vec<Slot>,
    /// Where every value lies that has a slot; slots of values that are no outputs are reused.
    pub values: HashMap<Value, Slot>,
    /// The needed nodes in order. Dispatches before the first of an operation round parameters to
    /// half precision.
    pub nodes: Vec<RecordedNode>,
    /// What the plan costs.
    pub report: Report,
}

impl Plan {
    /// Records a graph.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) for a value larger than a binding,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::UnknownName`](crate::Error::UnknownName) for a parameter the set does not have, and
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a graph that was built for another
    /// storage of weights than that of the set, or has gradients of tensors that are frozen in it.
    pub async fn new(gpu: &Gpu, request: &PlanRequest<'_>) -> Result<Self> {
        Self::sharing(gpu, request, &mut SharedBuffers::default()).await
    }

    /// Records a graph of the same model as those before it with these buffers, over the same
    /// parameters, sinks and steering blocks: with inputs of other sizes, say. It takes the memory
    /// that they have, as far as that goes, so one of them must have run to its end before another
    /// begins; what they have in common in outputs and observations lies at the same place, and so do
    /// [inputs that they share](SharedBuffers::share_inputs). The one with the largest values is to be
    /// the first.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn sharing(
        gpu: &Gpu,
        request: &PlanRequest<'_>,
        shared: &mut SharedBuffers,
    ) -> Result<Self> {
        let graph = request.graph;
        if has_halves(graph) {
            gpu.admit_half_conversions().await?;
        }
        let outline = PlanOutline {
            graph,
            outputs: request.outputs,
            layout: request.parameters.layout(),
            trains: request.sinks.is_some(),
            limits: gpu.memory_limits(),
        };
        let mut work = outline.work()?;
        let copied = std::mem::take(&mut work.copied);
        let copies = Copies::new(gpu, request.parameters, copied, &mut shared.copies).await?;
        let sinks = sinks::sinks(request, &work.contributions);
        part_checks::check_gradients(graph, &sinks)?;
        let places = shared.places(request, &work.needed);
        let SlotOutline { lifetimes, assignment, own } =
            outline.slots(&work, places.keys().copied())?;
        let Work { needed, parameter_index, state_index, .. } = work;
        let found = leaves(graph, &needed).map(|node| shared.input(graph, node));
        let found: Vec<_> = found.collect();
        let new = leaves(graph, &needed).zip(&found).filter(|(_, found)| found.is_none());
        let leaf_bytes: u64 = new.map(|(node, _)| node.shapes[0].bytes()).sum();

        let (chosen, slot_bytes) = shared.assign(&assignment.bytes, &own);
        let what = "the plan's activations";
        let made = parameters::allocate(gpu, what, slot_bytes + leaf_bytes, || {
            let pool = shared.buffers(gpu, &assignment.bytes, &chosen);
            let leaf = |(node, found): (&Node, &Option<wgpu::Buffer>)| {
                let new = || gpu.buffer(&node.label, node.shapes[0].bytes());
                found.clone().unwrap_or_else(new)
            };
            let leaves: Vec<_> = leaves(graph, &needed).zip(&found).map(leaf).collect();
            (pool, leaves)
        });
        let (pool, leaf_buffers) = made.await?;

        let mut values: HashMap<Value, Slot> = places;
        for (&(value, _), &slot) in lifetimes.iter().zip(&assignment.slot) {
            values.insert(value, Slot::new(pool[slot].clone(), graph.shape(value).clone()));
        }
        for sink in sinks.iter().filter(|sink| sink.in_place) {
            values.insert(sink.value, sink.slot.clone());
        }
        let mut inputs = Vec::new();
        for (node, buffer) in leaves(graph, &needed).zip(leaf_buffers) {
            match &node.source {
                Source::Input(index) => inputs.push(InputSlot {
                    spec: graph.inputs()[*index].clone(),
                    buffer: buffer.clone(),
                }),
                Source::Constant(data) => {
                    let padded = node.shapes[0].pad(data);
                    gpu.write(&buffer, 0, bytemuck::cast_slice(&padded));
                }
                _ => unreachable!("leaves are inputs and constants"),
            }
            values.insert(node.output(0), Slot::new(buffer, node.shapes[0].clone()));
        }
        for node in graph.nodes() {
            let slot = match node.source {
                Source::Parameter(index) => request.parameters.slot(parameter_index[index]),
                Source::State(index) => request.parameters.state_slot(state_index[index]),
                _ => continue,
            };
            values.insert(node.output(0), slot);
        }

        values.extend(copies.slots(request.parameters, &parameter_index));
        part_checks::check_operations(graph, &needed, &values)?;

        let mut recorder = Recorder::new(gpu, request.step);
        recorder.set_native_f16(graph.native_f16());
        let scratch_bytes = shared.scratch.as_ref().map_or(0, wgpu::Buffer::size);
        recorder.set_scratch(shared.scratch.take());
        copies.record(request.parameters, &mut recorder);
        let copy_dispatches = recorder.len();
        let counting = prologue::nodes(graph, &needed);
        prologue::record(graph, &counting, &values, true, &mut recorder);
        let prologue = recorder.len();
        let mut list = |first: bool| {
            let ranges = dispatches::record(graph, &needed, &values, &sinks, first, &mut recorder);
            (recorder.take(), ranges)
        };
        let (first, first_ranges) = list(true);
        let (next, next_ranges) =
            if request.microbatches > 1 { list(false) } else { Default::default() };
        prologue::record(graph, &counting, &values, false, &mut recorder);
        let count_next = recorder.take();
        let nodes = dispatches::recorded_nodes(graph, &values, &first_ranges, &next_ranges);
        let report = Report {
            nodes: needed.iter().filter(|&&n| n).count(),
            values: lifetimes.len(),
            slots: pool.len(),
            slot_bytes: slot_bytes + recorder.scratch_bytes() - scratch_bytes,
            value_bytes: lifetimes.iter().map(|(_, life)| life.bytes).sum(),
            leaf_bytes,
            copy_bytes: copies.bytes(),
            dispatches: first.len(),
            kernels: dispatches::by_kernel(&first),
        };
        shared.scratch = recorder.into_scratch();
        shared.keep(request, &needed, &values, &pool, &own);
        let outputs = request.outputs.iter().map(|value| values[value].clone()).collect();
        Ok(Self {
            first,
            copies: copy_dispatches,
            next,
            prologue,
            spanning: prologue::spanning(graph, &needed, &values),
            count_next,
            inputs,
            outputs,
            values,
            nodes,
            report,
        })
    }
}

/// Whether kernels convert from or to f16: tensors, or the scales of blocks.
fn has_halves(graph: &Graph) -> bool {
    let has = |shape: &Shape| shape.precision == Precision::F16 || shape.block_format().is_some();
    graph.nodes().iter().any(|node| node.shapes.iter().any(has))
}

/// Which nodes the outputs and sinks depend on.
fn needed(graph: &Graph, outputs: &[Value], trains: bool) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    let sinks = if trains { graph.gradients() } else { &[] };
    let staged = if trains { graph.staged() } else { &[] };
    let sink_values = sinks.iter().chain(staged).map(|&(_, value)| value);
    for value in outputs.iter().copied().chain(sink_values) {
        needed[value.node] = true;
    }
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if needed[index] {
            for input in &node.inputs {
                needed[input.node] = true;
            }
        }
    }
    needed
}

fn leaves<'g>(graph: &'g Graph, needed: &'g [bool]) -> impl Iterator<Item = &'g Node> {
    let is_leaf = |node: &&Node| matches!(node.source, Source::Input(_) | Source::Constant(_));
    graph.nodes().iter().zip(needed).filter(|&(_, &needed)| needed).map(|(n, _)| n).filter(is_leaf)
}
