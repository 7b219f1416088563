//! Where gradients and new states go, and which operations write there themselves.

use std::collections::HashMap;

use super::{ParameterLayout, PlanRequest};
use crate::error::{Error, Result};
use crate::graph::{Element, Graph, Source, Value};
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

/// What a gradient or a new state is of, by its index in the layout.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Gradient(usize),
    State(usize),
}

/// A value that is a gradient or a new state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contribution {
    pub(super) value: Value,
    pub(super) target: Target,
    /// The first contribution of a step's first microbatch overwrites.
    pub(super) first: bool,
    /// The operation writes it where it goes; otherwise a dispatch of its own adds the value.
    pub(super) in_place: bool,
}

/// A value that goes to a gradient or staged buffer once its node has run.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) value: Value,
    pub(super) slot: Slot,
    /// As of a [`Contribution`].
    pub(super) first: bool,
    /// As of a [`Contribution`].
    pub(super) in_place: bool,
}

/// Fails for a gradient that has no place among the sinks.
pub(super) fn check_gradients(
    graph: &Graph,
    layout: &ParameterLayout,
    index: &[usize],
) -> Result<()> {
    let trained = layout.trained().len();
    match graph.gradients().iter().find(|&&(parameter, _)| index[parameter] >= trained) {
        None => Ok(()),
        Some(&(parameter, _)) => Err(Error::Unsupported {
            what: format!("a gradient of {:?}", graph.parameters()[parameter].name),
            instead: "it is frozen in the parameters: freeze it in the graph as well".into(),
        }),
    }
}

/// The places of contributions.
pub(super) fn sinks(request: &PlanRequest<'_>, contributions: &[Contribution]) -> Vec<Sink> {
    let Some(buffers) = request.sinks else { return Vec::new() };
    let parameters = request.parameters;
    let sink = |&Contribution { value, target, first, in_place }: &Contribution| Sink {
        value,
        slot: match target {
            Target::Gradient(index) => parameters.slot_in(&buffers.gradients, index, Element::F32),
            Target::State(index) => parameters.state_slot_in(&buffers.staged, index),
        },
        first,
        in_place,
    };
    contributions.iter().map(sink).collect()
}

/// Gradients and new states, sorted by the node that makes them.
pub(super) fn contributions(
    graph: &Graph,
    outputs: &[Value],
    parameter_index: &[usize],
    state_index: &[usize],
) -> Vec<Contribution> {
    let mut uses: HashMap<Value, usize> = HashMap::new();
    let all_inputs = graph.nodes().iter().flat_map(|node| &node.inputs);
    let all_sinks = graph.gradients().iter().chain(graph.staged()).map(|(_, value)| value);
    for value in all_inputs.chain(all_sinks).chain(outputs) {
        *uses.entry(*value).or_default() += 1;
    }
    let in_place = |value: Value| match &graph.nodes()[value.node].source {
        Source::Op(op) => op.accumulates(value.output) && uses[&value] == 1,
        _ => false,
    };
    let mut gradients = graph.gradients().to_vec();
    gradients.sort_unstable_by_key(|&(_, value)| value);
    let mut written = vec![false; graph.parameters().len()];
    let mut all = Vec::new();
    for (parameter, value) in gradients {
        let target = Target::Gradient(parameter_index[parameter]);
        let first = !std::mem::replace(&mut written[parameter], true);
        all.push(Contribution { value, target, first, in_place: in_place(value) });
    }
    for &(state, value) in graph.staged() {
        let label = &graph.nodes()[value.node].label;
        assert!(in_place(value), "{label} must write the staged state in place, and only there");
        let target = Target::State(state_index[state]);
        all.push(Contribution { value, target, first: true, in_place: true });
    }
    all.sort_unstable_by_key(|contribution| contribution.value);
    for group in all.chunk_by_mut(|a, b| a.value.node == b.value.node) {
        let node = &graph.nodes()[group[0].value.node];
        let Source::Op(op) = &node.source else { continue };
        let adding = (0..node.shapes.len()).filter(|&output| op.accumulates(output)).count();
        let in_place = group.iter().filter(|one| one.in_place).count();
        if in_place < adding || group.iter().any(|one| one.first != group[0].first) {
            group.iter_mut().for_each(|one| one.in_place = false);
        }
    }
    all
}
