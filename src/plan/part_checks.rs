//! Whether all that a plan does with parameters in [parts](super::parts) can be done with them.

use std::collections::HashMap;

use super::parts::unsupported;
use super::sinks::Sink;
use crate::error::Result;
use crate::graph::{Graph, Source, Value};
use crate::record::Slot;

/// Fails if the gradient of a parameter in parts is not written in place.
pub(super) fn check_gradients(graph: &Graph, sinks: &[Sink]) -> Result<()> {
    let outside = sinks.iter().find(|sink| sink.slot.is_in_parts() && !sink.in_place);
    let Some(sink) = outside else { return Ok(()) };
    let label = &graph.nodes()[sink.value.node].label;
    let parameter = gradient_of(graph, sink.value).unwrap_or_default();
    Err(unsupported(&format!("the operation {label}"), parameter, ADVICE))
}

/// Fails if an operation that cannot do so reads or writes a parameter in parts.
pub(super) fn check_operations(
    graph: &Graph,
    needed: &[bool],
    values: &HashMap<Value, Slot>,
) -> Result<()> {
    for (_, node) in graph.nodes().iter().enumerate().filter(|&(i, _)| needed[i]) {
        let Source::Op(op) = &node.source else { continue };
        let outputs = (0..node.shapes.len()).map(|output| node.output(output));
        let all = node.inputs.iter().copied().chain(outputs.clone());
        let Some(value) = { all }.find(|value| values[value].is_in_parts()) else { continue };
        let inputs: Vec<_> = node.inputs.iter().map(|input| values[input].clone()).collect();
        let outputs: Vec<_> = outputs.map(|output| values[&output].clone()).collect();
        if !op.takes_parts(&inputs, &outputs) {
            let read = graph.parameter_behind(value).map(|index| &*graph.parameters()[index].name);
            let parameter = read.or(gradient_of(graph, value)).unwrap_or_default();
            let what = format!("the operation {}", node.label);
            return Err(unsupported(&what, parameter, ADVICE));
        }
    }
    Ok(())
}

const ADVICE: &str = "embeddings, learned positions, linear layers and products of two \
                            matrices in f32 can read one such parameter; make several of it, or take \
                            a device with larger bindings";

/// The parameter that a value is a gradient of.
fn gradient_of(graph: &Graph, value: Value) -> Option<&str> {
    let (parameter, _) = graph.gradients().iter().find(|&&(_, gradient)| gradient == value)?;
    Some(&graph.parameters()[*parameter].name)
}
