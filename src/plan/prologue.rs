//! What holds for a step as a whole, and is known before its first microbatch begins.

use std::collections::HashMap;

use super::{Plan, Recorder, Slot};
use crate::gpu::{Dispatch, Origin, Stage};
use crate::graph::{Graph, Source, Value};

/// Whether a node [spans the step](crate::graph::Op::spans_step).
pub(super) fn spans_step(source: &Source) -> bool {
    matches!(source, Source::Op(op) if op.spans_step())
}

/// The needed nodes that span the step, and those that they are computed from.
///
/// # Panics
/// Where one of them is computed from another: it would see a part of it only.
pub(super) fn nodes(graph: &Graph, needed: &[bool]) -> Vec<bool> {
    let mut reached = vec![false; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        let spans = needed[index] && spans_step(&node.source);
        assert!(
            !(spans && reached[index]),
            "{} spans the step and cannot be part of what another such operation is computed from",
            node.label
        );
        reached[index] |= spans;
        if reached[index] {
            node.inputs.iter().for_each(|input| reached[input.node] = true);
        }
        // Copies of parameters are not needed as nodes: they were made before.
        reached[index] &= needed[index];
    }
    reached
}

/// Records them for one microbatch.
pub(super) fn record(
    graph: &Graph,
    nodes: &[bool],
    values: &HashMap<Value, Slot>,
    first_microbatch: bool,
    recorder: &mut Recorder<'_>,
) {
    for (node, _) in graph.nodes().iter().zip(nodes).filter(|&(_, &is_part)| is_part) {
        let Source::Op(op) = &node.source else { continue };
        let inputs: Vec<_> = node.inputs.iter().map(|input| values[input].clone()).collect();
        let mut outputs: Vec<_> =
            (0..node.shapes.len()).map(|o| values[&node.output(o)].clone()).collect();
        if op.spans_step() && !first_microbatch {
            outputs.iter_mut().for_each(|output| output.accumulate = true);
        }
        recorder.set_origin(Origin { stage: Stage::Prologue, ..node.origin() });
        node.record(&**op, recorder, &inputs, &outputs);
    }
}

/// Where the needed values lie that span the step, in the order of the graph.
pub(super) fn spanning(graph: &Graph, needed: &[bool], values: &HashMap<Value, Slot>) -> Vec<Slot> {
    let nodes = graph.nodes().iter().zip(needed);
    let nodes = nodes.filter(|(node, needed)| **needed && spans_step(&node.source));
    let outputs = nodes.flat_map(|(node, _)| (0..node.shapes.len()).map(|o| node.output(o)));
    outputs.map(|value| values[&value].clone()).collect()
}

impl Plan {
    /// Where the values lie that [span the step](crate::graph::Op::spans_step): what a step on
    /// several ranks adds up over them.
    pub(crate) fn spanning(&self) -> &[Slot] {
        &self.spanning
    }

    /// The dispatches that prepare a step, given the inputs of microbatch 0: the front of
    /// [`first`](Self::first). With several microbatches, [`count_next`](Self::count_next) follows
    /// for each of the others.
    pub fn prologue(&self) -> &[Dispatch] {
        &self.first[..self.prologue]
    }

    /// The dispatches of the first microbatch behind the [`prologue`](Self::prologue).
    pub fn first_pass(&self) -> &[Dispatch] {
        &self.first[self.prologue..]
    }
}
