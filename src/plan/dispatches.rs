//! The dispatches of one microbatch, node by node, and what of them belongs to which node.

use std::collections::HashMap;
use std::ops::Range;

use super::lifetimes::is_observed;
use super::sinks::Sink;
use super::{RecordedNode, prologue};
use crate::gpu::Dispatch;
use crate::graph::{Graph, Source, Value};
use crate::kernels::{Accumulate, AccumulateParams};
use crate::record::{Recorder, Slot};

/// Where the dispatches of each operation lie, by the index of its node.
pub(super) type Ranges = HashMap<usize, Range<usize>>;

/// The nodes that have values, with their dispatches.
pub(super) fn recorded_nodes(
    graph: &Graph,
    values: &HashMap<Value, Slot>,
    first: &Ranges,
    next: &Ranges,
) -> Vec<RecordedNode> {
    let mut recorded = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let outputs = (0..node.shapes.len()).map(|output| node.output(output));
        let outputs: Option<Vec<_>> =
            outputs.map(|value| Some((value, values.get(&value)?.clone()))).collect();
        let Some(outputs) = outputs else { continue };
        let range = |ranges: &Ranges| ranges.get(&index).cloned().unwrap_or(0..0);
        recorded.push(RecordedNode {
            source: node.source.clone(),
            label: node.label.clone(),
            inputs: node.inputs.clone(),
            outputs,
            first: range(first),
            next: range(next),
        });
    }
    recorded
}

/// Records every needed node, and behind it the dispatches that add its gradients.
pub(super) fn record(
    graph: &Graph,
    needed: &[bool],
    values: &HashMap<Value, Slot>,
    sinks: &[Sink],
    first_microbatch: bool,
    recorder: &mut Recorder<'_>,
) -> Ranges {
    let mut ranges = Ranges::new();
    for (index, node) in graph.nodes().iter().enumerate().filter(|&(i, _)| needed[i]) {
        let sinks: Vec<_> = sinks.iter().filter(|sink| sink.value.node == index).collect();
        let start = recorder.len();
        if prologue::spans_step(&node.source) {
            continue;
        }
        recorder.set_origin(node.origin());
        if let Source::Op(op) = &node.source {
            let inputs: Vec<_> = node.inputs.iter().map(|input| values[input].clone()).collect();
            let mut outputs: Vec<_> =
                (0..node.shapes.len()).map(|o| values[&node.output(o)].clone()).collect();
            for (o, output) in outputs.iter_mut().enumerate() {
                output.accumulate = !first_microbatch && is_observed(graph, node.output(o));
            }
            for sink in sinks.iter().filter(|sink| sink.in_place) {
                outputs[sink.value.output].accumulate = !(sink.first && first_microbatch);
            }
            node.record(&**op, recorder, &inputs, &outputs);
        }
        for sink in sinks.iter().filter(|sink| !sink.in_place) {
            recorder.dispatch(&Accumulate {
                params: AccumulateParams {
                    quads: sink.slot.shape.quads() as u32,
                    factor: 1.0,
                    accumulate: u32::from(!(sink.first && first_microbatch)),
                },
                x: values[&sink.value].binding(),
                y: sink.slot.binding(),
            });
        }
        if matches!(node.source, Source::Op(_)) {
            ranges.insert(index, start..recorder.len());
        }
    }
    ranges
}

pub(super) fn by_kernel(dispatches: &[Dispatch]) -> Vec<(&'static str, usize)> {
    let mut counts: HashMap<&'static str, usize> = HashMap::new();
    for dispatch in dispatches {
        *counts.entry(dispatch.name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    counts
}
