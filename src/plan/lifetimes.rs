//! How long the values of a plan live, for the assignment of slots.

use std::collections::{HashMap, HashSet};

use super::prologue;
use super::slots::Lifetime;
use crate::graph::{Element, Graph, Shape, Source, Value};

/// The lifetime of every value that needs a slot, sorted by where it begins; those that are `placed`
/// have one.
///
/// Kernels write f32 rows element by element and leave their padding alone. So f32 values with
/// padding share no slot: theirs is zero from the start, and stays it. Nor do observed values and
/// those that span the step, which outlive a microbatch.
pub(super) fn lifetimes(
    graph: &Graph,
    outputs: &[Value],
    needed: &[bool],
    placed: &HashSet<Value>,
) -> Vec<(Value, Lifetime)> {
    let mut last: HashMap<Value, usize> = HashMap::new();
    for (index, node) in graph.nodes().iter().enumerate().filter(|&(i, _)| needed[i]) {
        for &input in &node.inputs {
            last.insert(input, index);
        }
    }
    last.extend(outputs.iter().map(|&value| (value, usize::MAX)));
    let mut lifetimes = Vec::new();
    for (first, node) in graph.nodes().iter().enumerate().filter(|&(i, _)| needed[i]) {
        if !matches!(node.source, Source::Op(_)) {
            continue;
        }
        for (output, shape) in node.shapes.iter().enumerate() {
            let value = node.output(output);
            if placed.contains(&value) {
                continue;
            }
            let bytes = shape.bytes().next_multiple_of(16);
            let outlives = is_observed(graph, value) || prologue::spans_step(&node.source);
            let life = if is_padded(shape) || outlives {
                Lifetime { bytes, first: 0, last: usize::MAX }
            } else {
                let last = last.get(&value).copied().unwrap_or(first);
                Lifetime { bytes, first, last }
            };
            lifetimes.push((value, life));
        }
    }
    lifetimes.sort_unstable_by_key(|(_, life)| life.first);
    lifetimes
}

/// Whether a value has padding that its kernels leave alone.
pub(super) fn is_padded(shape: &Shape) -> bool {
    shape.element == Element::F32 && !shape.cols().is_multiple_of(4)
}

pub(super) fn is_observed(graph: &Graph, value: Value) -> bool {
    graph.observations().iter().any(|&(_, observed)| observed == value)
}
