//! A graph of operations: built once, differentiated once, then recorded into a plan.
//!
//! A [`Graph`] is a list of nodes in the order they were made, so every node comes after its
//! inputs. Leaves are inputs (written by the host each step), parameters (trained or frozen), states
//! (committed by the verdict, such as running statistics) and constants. [`Graph::backward`]
//! appends the gradient operations; nothing is computed until a [`Plan`](crate::plan::Plan) is
//! made of it, or [`Graph::evaluate`] runs it in f64 on the CPU.

mod backward;
mod evaluate;
mod fusion;
mod leaves;
mod node;
mod op;
pub mod ops;
mod recompute;
mod specs;

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

pub use evaluate::{Evaluation, HostData};
pub use node::{Node, Source, Value};
pub use op::{AfterUpdate, Dense, Op, OverRanks};
pub use specs::{InputSpec, ParameterSpec, StateSpec};

use crate::kernel::{BlockFormat, Precision, WeightStorage};
pub use crate::shape::{Element, Shape};

/// Whether a graph is built for training or for evaluation: dropout and batch statistics differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Dropout drops, BatchNorm uses and records the statistics of the batch.
    Train,
    /// Dropout is the identity, BatchNorm uses its running statistics.
    Evaluate,
}

/// Operations, their leaves, and where their results go.
#[derive(Debug)]
pub struct Graph {
    /// Training or evaluation.
    pub phase: Phase,
    /// Storage of values that operations give from here on.
    precision: Precision,
    /// Storage of the parameters.
    weights: WeightStorage,
    /// Whether matrix products of f16 tensors multiply in f16.
    native_f16: bool,
    /// Bytes that a binding of the device may have.
    largest_binding: u64,
    /// Positions of the sequences that the graph is for.
    length: Option<usize>,
    /// Casts made so far, so that no value is cast twice.
    casts: HashMap<(Value, Precision), Value>,
    nodes: Vec<Node>,
    inputs: Vec<InputSpec>,
    parameters: Vec<ParameterSpec>,
    states: Vec<StateSpec>,
    /// New values of states, by state.
    staged: Vec<(usize, Value)>,
    /// Contributions to the gradients of parameters, by parameter, in order.
    gradients: Vec<(usize, Value)>,
    /// Values to tell about, by name.
    observations: Vec<(String, Value)>,
    after_update: Vec<Rc<dyn AfterUpdate>>,
    scope: Vec<String>,
    /// Scopes and modules.
    module: Vec<String>,
    /// The module of the operation whose gradient is being made.
    differentiated: Option<String>,
    /// Ranges of nodes that the backward pass computes again, in order.
    recomputed: Vec<Range<usize>>,
    streams: u32,
    /// Whether parameters that are asked for from here on are trained.
    requires_grad: bool,
    /// Whether of those only the added ones are.
    is_base_frozen: bool,
    /// Parameters that start as a value of the graph.
    starts: Vec<(usize, Value)>,
    /// What weights that are asked for from here on lie in.
    blocks: Option<BlockFormat>,
}

impl Graph {
    /// An empty graph.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            precision: Precision::F32,
            weights: WeightStorage::F32,
            native_f16: false,
            largest_binding: u64::MAX,
            length: None,
            casts: HashMap::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            parameters: Vec::new(),
            states: Vec::new(),
            staged: Vec::new(),
            gradients: Vec::new(),
            observations: Vec::new(),
            after_update: Vec::new(),
            scope: Vec::new(),
            module: Vec::new(),
            differentiated: None,
            recomputed: Vec::new(),
            streams: 0,
            requires_grad: true,
            is_base_frozen: false,
            starts: Vec::new(),
            blocks: None,
        }
    }

    /// An empty graph whose operations store their values in `precision`.
    pub fn in_precision(phase: Phase, precision: Precision) -> Self {
        Self { precision, ..Self::new(phase) }
    }

    /// The graph over parameters in this storage. A graph that is to be planned with
    /// [`Parameters`](crate::plan::Parameters) from elsewhere takes theirs:
    /// [`Parameters::storage`](crate::plan::Parameters::storage).
    ///
    /// # Panics
    /// Once the graph has parameters.
    #[must_use]
    #[track_caller]
    pub fn with_weights(mut self, weights: WeightStorage) -> Self {
        assert!(self.parameters.is_empty(), "the graph already has parameters");
        self.weights = weights;
        self
    }

    /// Storage of the parameters.
    pub fn weights(&self) -> WeightStorage {
        self.weights
    }

    /// Runs `build` with `name` added to the prefix of every parameter and state it makes.
    pub fn scope<T>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Self) -> T) -> T {
        let name = name.into();
        self.scope.push(name.clone());
        let result = self.module(name, build);
        self.scope.pop();
        result
    }

    /// Runs `build` with what it computes counted as part of the module `name` in a
    /// [profile](crate::train::Profile). Every [`scope`](Self::scope) is a module; this is for what
    /// has a name of its own without being a prefix of others.
    pub fn module<T>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Self) -> T) -> T {
        self.module.push(name.into());
        let result = build(self);
        self.module.pop();
        result
    }

    /// Runs `build` with operations that store their values in `precision`. Inputs of another
    /// precision are cast; parameters, inputs and constants are cast where they are read, from f32
    /// or, for parameters, from what [`with_weights`](Self::with_weights) says. Reductions,
    /// statistics and losses are f32 in any case.
    pub fn with_precision<T>(
        &mut self,
        precision: Precision,
        build: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outside = std::mem::replace(&mut self.precision, precision);
        let result = build(self);
        self.precision = outside;
        result
    }

    /// Lets matrix products of f16 tensors multiply in f16 as well: faster where the device does,
    /// and about as exact as f16 storage is. Sums of 16 products are f16, those of them f32. The
    /// device must have [`wgpu::Features::SHADER_F16`].
    pub fn set_native_f16(&mut self, native: bool) {
        self.native_f16 = native;
    }

    /// Whether matrix products of f16 tensors multiply in f16.
    pub fn native_f16(&self) -> bool {
        self.native_f16
    }

    /// Tells models that are built from here on how many bytes a binding of the device may have.
    pub fn set_largest_binding(&mut self, bytes: u64) {
        self.largest_binding = bytes;
    }

    /// Bytes that a binding of the device may have, where that is known; else the largest number.
    pub fn largest_binding(&self) -> u64 {
        self.largest_binding
    }

    /// Tells models that are built from here on how many positions the sequences of this graph have.
    pub fn set_length(&mut self, length: Option<usize>) {
        self.length = length;
    }

    /// Positions of the sequences that the graph is for, where a trainer has
    /// [several lengths](crate::train::TrainerBuilder::lengths): a model gives its inputs as many.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// The precision that operations store their values in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn path(&self, name: &str) -> String {
        let mut path = self.scope.join(".");
        if !path.is_empty() {
            path.push('.');
        }
        path + name
    }

    /// Applies an operation and returns its first output. It runs in the current precision, or
    /// in f32 where it reads a value of [`Element::F32`] as a tensor.
    #[track_caller]
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Value]) -> Value {
        self.apply_shared(Rc::new(op), inputs)
    }

    #[track_caller]
    fn apply_shared(&mut self, op: Rc<dyn Op>, inputs: &[Value]) -> Value {
        let inputs = || inputs.iter().copied().enumerate();
        for (index, value) in inputs() {
            let shape = self.shape(value);
            let readable = shape.block_format().is_none() || op.takes_blocks(index);
            let label = &self.nodes[value.node].label;
            assert!(readable, "{} cannot read {label}, {shape}, in blocks", op.name());
        }
        let element = |value| self.shape(value).element;
        let has_single = inputs().any(|(i, v)| !op.is_f32(i) && element(v) == Element::F32);
        let precision = if has_single { Precision::F32 } else { self.precision };
        let cast = |(index, value)| match self.shape(value).element {
            Element::Real if !op.is_f32(index) => self.cast(value, precision),
            _ => self.cast(value, Precision::F32),
        };
        let inputs: Vec<_> = inputs().map(cast).collect();
        let shapes: Vec<_> = inputs.iter().map(|&value| self.shape(value).clone()).collect();
        let outputs = op.shapes(&shapes).into_iter().map(|s| s.stored_as(precision)).collect();
        let label = self.path(op.name());
        let value = self.push(Source::Op(op), inputs, outputs, label);
        self.nodes[value.node].precision = precision;
        value
    }

    /// Applies a cast between f32 and `half`, unless that was done before.
    fn push_cast(&mut self, x: Value, cast: ops::Cast, half: Precision) -> Value {
        if let Some(&value) = self.casts.get(&(x, cast.to)) {
            return value;
        }
        let outputs = cast.shapes(std::slice::from_ref(self.shape(x)));
        let label = self.path(cast.name());
        let value = self.push(Source::Op(Rc::new(cast)), vec![x], outputs, label);
        self.nodes[value.node].precision = half;
        self.casts.insert((x, cast.to), value);
        value
    }

    /// The copies of parameters in another precision: (parameter, what is copied, copy). That is the
    /// parameter itself, or its copy in f32 on the way from one kind of halves to the other.
    pub(crate) fn parameter_copies(&self) -> impl Iterator<Item = (usize, Value, Value)> {
        let copies = self.casts.iter();
        copies.filter_map(|(&(from, _), &copy)| Some((self.parameter_behind(from)?, from, copy)))
    }

    fn push(
        &mut self,
        source: Source,
        inputs: Vec<Value>,
        shapes: Vec<Shape>,
        label: String,
    ) -> Value {
        let index = self.nodes.len();
        let precision = Precision::F32;
        let is_gradient = self.differentiated.is_some();
        let module = self.differentiated.clone().unwrap_or_else(|| self.module.join("."));
        let node = Node { source, inputs, shapes, label, module, is_gradient, precision, index };
        self.nodes.push(node);
        Value { node: index, output: 0 }
    }

    /// The by-product `output` of the operation that made `value`.
    #[track_caller]
    pub fn byproduct(&self, value: Value, output: usize) -> Value {
        let node = &self.nodes[value.node];
        assert!(output < node.shapes.len(), "{} has {} outputs", node.label, node.shapes.len());
        Value { node: value.node, output }
    }

    /// Names a value under the current scope that is worth telling about. A plan computes it only
    /// where it is asked for as an output; then it keeps its slot between microbatches, and
    /// [`Slot::accumulate`] tells its operation to go on from what the one before left.
    ///
    /// [`Slot::accumulate`]: crate::record::Slot::accumulate
    #[track_caller]
    pub fn observe(&mut self, name: &str, value: Value) {
        let name = self.path(name);
        assert!(self.observations.iter().all(|(n, _)| *n != name), "{name:?} is observed twice");
        self.observations.push((name, value));
    }

    /// What is observed, in order: (name, value).
    pub fn observations(&self) -> &[(String, Value)] {
        &self.observations
    }

    /// Has `layer` act on its parameters after each update.
    pub fn after_update(&mut self, layer: impl AfterUpdate + 'static) {
        self.after_update.push(Rc::new(layer));
    }

    /// What acts after each update, in order.
    pub fn after_updates(&self) -> &[Rc<dyn AfterUpdate>] {
        &self.after_update
    }

    /// The current scope: the dotted prefix of what is made in it, without the last dot.
    pub fn scope_name(&self) -> String {
        self.scope.join(".")
    }

    /// A number for a random stream that no other operation of this graph has.
    pub fn stream(&mut self) -> u32 {
        self.streams += 1;
        self.streams - 1
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.nodes[value.node].shapes[value.output]
    }

    /// All nodes, each after its inputs.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Contributions to gradients of parameters, in order: (parameter, value). Filled by
    /// [`backward`](Self::backward).
    pub fn gradients(&self) -> &[(usize, Value)] {
        &self.gradients
    }
}
