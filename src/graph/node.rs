//! A node of a graph: what it is, what it reads, and the values it gives.

use std::rc::Rc;

use super::{Op, Shape};
use crate::gpu::{Origin, Stage};
use crate::kernel::Precision;
use crate::record::{Recorder, Slot};

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// Index of the node.
    pub node: usize,
    /// Index of the output.
    pub output: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Source {
    /// Written by the host before a step.
    Input(usize),
    /// Trained, or frozen.
    Parameter(usize),
    /// Kept between steps, changed only by steps that are applied.
    State(usize),
    /// The same in every step.
    Constant(Rc<[f32]>),
    /// Computed.
    Op(Rc<dyn Op>),
}

/// A node: what it is, what it reads, what it gives.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the node is.
    pub source: Source,
    /// The values it reads.
    pub inputs: Vec<Value>,
    /// The shapes of its outputs.
    pub shapes: Vec<Shape>,
    /// Scope and name, for messages and reports.
    pub label: String,
    /// The [module](super::Graph::module) it was made in; a gradient operation has that of what it
    /// differentiates.
    pub module: String,
    /// Whether it is part of the backward pass.
    pub is_gradient: bool,
    /// The storage precision of the values an operation reads and writes.
    pub precision: Precision,
    pub(super) index: usize,
}

impl Node {
    /// Output `output` of this node as a value.
    pub fn output(&self, output: usize) -> Value {
        Value { node: self.index, output }
    }

    /// What the dispatches of this node are part of.
    pub(crate) fn origin(&self) -> Origin {
        let stage = if self.is_gradient { Stage::Backward } else { Stage::Forward };
        Origin { module: self.module.clone(), label: self.label.clone(), stage }
    }

    /// Records the node's operation in its storage precision.
    pub(crate) fn record(
        &self,
        op: &dyn Op,
        recorder: &mut Recorder<'_>,
        inputs: &[Slot],
        outputs: &[Slot],
    ) {
        let operands = inputs.iter().chain(outputs).cloned();
        recorder.operation(self.precision, operands, |recorder| {
            op.record(recorder, inputs, outputs);
        });
    }
}
