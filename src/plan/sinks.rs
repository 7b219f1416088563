//! Where gradients and new states go, and which operations write there themselves.

use std::collections::HashMap;

use super::PlanRequest;
use crate::error::{Error, Result};
use crate::graph::{Element, Source, Value};
use crate::record::Slot;

/// Flat buffers that receive gradients and new states.
#[derive(Debug)]
pub struct Sinks {
    /// Gradients, one buffer per [trained segment](super::Parameters::trained_segments) of the
    /// parameters.
    pub gradients: Vec<wgpu::Buffer>,
    /// New values of the states.
    pub staged: wgpu::Buffer,
}

/// A value that goes to a gradient or staged buffer once its node has run.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) value: Value,
    pub(super) slot: Slot,
    /// The first contribution of a step's first microbatch overwrites.
    pub(super) first: bool,
    /// The operation writes there itself; otherwise a dispatch of its own adds the value.
    pub(super) in_place: bool,
}

/// Fails for a gradient that has no place among the sinks.
pub(super) fn check_gradients(request: &PlanRequest<'_>, parameter_index: &[usize]) -> Result<()> {
    let trained = request.parameters.trained().len();
    let gradients = request.sinks.map_or(&[][..], |_| request.graph.gradients());
    match gradients.iter().find(|&&(parameter, _)| parameter_index[parameter] >= trained) {
        None => Ok(()),
        Some(&(parameter, _)) => Err(Error::Unsupported {
            what: format!("a gradient of {:?}", request.graph.parameters()[parameter].name),
            instead: "it is frozen in the parameters: freeze it in the graph as well".into(),
        }),
    }
}

/// Where gradients and staged states go, sorted by the node that makes them.
pub(super) fn sinks(
    request: &PlanRequest<'_>,
    parameter_index: &[usize],
    state_index: &[usize],
) -> Vec<Sink> {
    let (graph, Some(buffers)) = (request.graph, request.sinks) else { return Vec::new() };
    let mut uses: HashMap<Value, usize> = HashMap::new();
    let all_inputs = graph.nodes().iter().flat_map(|node| &node.inputs);
    let all_sinks = graph.gradients().iter().chain(graph.staged()).map(|(_, value)| value);
    for value in all_inputs.chain(all_sinks).chain(request.outputs) {
        *uses.entry(*value).or_default() += 1;
    }
    let in_place = |value: Value| match &graph.nodes()[value.node].source {
        Source::Op(op) => op.accumulates(value.output) && uses[&value] == 1,
        _ => false,
    };
    let mut contributions = graph.gradients().to_vec();
    contributions.sort_unstable_by_key(|&(_, value)| value);
    let mut written = vec![false; graph.parameters().len()];
    let mut sinks = Vec::new();
    for (parameter, value) in contributions {
        let index = parameter_index[parameter];
        let slot = request.parameters.slot_in(&buffers.gradients, index, Element::F32);
        let first = !std::mem::replace(&mut written[parameter], true);
        sinks.push(Sink { value, slot, first, in_place: in_place(value) });
    }
    for &(state, value) in graph.staged() {
        let label = &graph.nodes()[value.node].label;
        assert!(in_place(value), "{label} must write the staged state in place, and only there");
        let slot = request.parameters.state_slot_in(&buffers.staged, state_index[state]);
        sinks.push(Sink { value, slot, first: true, in_place: true });
    }
    sinks.sort_unstable_by_key(|sink| sink.value);
    for group in sinks.chunk_by_mut(|a, b| a.value.node == b.value.node) {
        let node = &graph.nodes()[group[0].value.node];
        let Source::Op(op) = &node.source else { continue };
        let adding = (0..node.shapes.len()).filter(|&output| op.accumulates(output)).count();
        let in_place = group.iter().filter(|sink| sink.in_place).count();
        if in_place < adding || group.iter().any(|sink| sink.first != group[0].first) {
            group.iter_mut().for_each(|sink| sink.in_place = false);
        }
    }
    sinks
}
