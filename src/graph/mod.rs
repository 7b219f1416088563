//! A graph of operations: built once, differentiated once, then recorded into a plan.
//!
//! A [`Graph`] is a list of nodes in the order they were made, so every node comes after its
//! inputs. Leaves are inputs (written by the host each step), parameters (trained or frozen), states
//! (committed by the verdict, such as running statistics) and constants. [`Graph::backward`]
//! appends the gradient operations; nothing is computed until a [`Plan`](crate::plan::Plan) is
//! made of it, or [`Graph::evaluate`] runs it in f64 on the CPU.

mod backward;
mod evaluate;
mod op;
pub mod ops;

use std::collections::HashMap;
use std::rc::Rc;

pub use evaluate::{Evaluation, HostData};
pub use op::{AfterUpdate, Dense, Op};

use crate::init::Init;
use crate::kernel::{Precision, WeightStorage};
use crate::record::{Recorder, Slot};
pub use crate::shape::{Element, Shape};

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// Index of the node.
    pub node: usize,
    /// Index of the output.
    pub output: usize,
}

/// Whether a graph is built for training or for evaluation: dropout and batch statistics differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Dropout drops, BatchNorm uses and records the statistics of the batch.
    Train,
    /// Dropout is the identity, BatchNorm uses its running statistics.
    Evaluate,
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
    /// The storage precision of the values an operation reads and writes.
    pub precision: Precision,
    index: usize,
}

impl Node {
    /// Output `output` of this node as a value.
    pub fn output(&self, output: usize) -> Value {
        Value { node: self.index, output }
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

/// An input that the host writes before each step.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Name.
    pub name: String,
    /// Shape of one microbatch.
    pub shape: Shape,
    /// Token ids must lie below this.
    pub bound: Option<u32>,
    /// Whether ids may also be [`IGNORE`](crate::train::IGNORE): targets of a cross-entropy may.
    pub ignorable: bool,
}

/// A parameter: a tensor that is trained, or frozen.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Dotted name, as PyTorch would have it.
    pub name: String,
    /// Shape, in f32.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
    /// Random stream of the initialiser; the parameter's position in the model.
    pub stream: u32,
    /// Whether it is trained. A frozen tensor has a value, and no gradient; see
    /// [`Graph::frozen`].
    pub requires_grad: bool,
}

/// Tensors that are kept between steps and changed only by applied steps: the rows of one matrix,
/// each with a name of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// Dotted name of each row.
    pub names: Vec<String>,
    /// (rows, cols), of [`Element::F32`].
    pub shape: Shape,
    /// What every element of a row starts with, by row.
    pub initial: Vec<f32>,
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
    streams: u32,
    /// Whether parameters that are asked for from here on are trained.
    requires_grad: bool,
}

impl Graph {
    /// An empty graph.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            precision: Precision::F32,
            weights: WeightStorage::F32,
            native_f16: false,
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
            streams: 0,
            requires_grad: true,
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
        self.scope.push(name.into());
        let result = build(self);
        self.scope.pop();
        result
    }

    /// Runs `build` with frozen parameters: no parameter that it asks for is trained, wherever else
    /// in the graph it is used (tied weights). [`ParameterSpec::requires_grad`] says so.
    ///
    /// A frozen tensor counts as a constant. It has no gradient, and the gradient operations of
    /// whatever depends on frozen tensors and inputs alone are left out; gradients pass through
    /// frozen layers to what is trained below them. All else is as in training: dropout drops, and
    /// running statistics of BatchNorm move, as they do in PyTorch with `requires_grad` false.
    pub fn frozen<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let outside = std::mem::replace(&mut self.requires_grad, false);
        let result = build(self);
        self.requires_grad = outside;
        result
    }

    /// Freezes the parameters made so far that `is_frozen` chooses, as [`frozen`](Self::frozen)
    /// does. Those that are frozen already stay so.
    ///
    /// # Panics
    /// After [`backward`](Self::backward).
    #[track_caller]
    pub fn freeze(&mut self, is_frozen: impl Fn(&ParameterSpec) -> bool) {
        assert!(self.gradients.is_empty(), "the graph is differentiated already");
        for spec in &mut self.parameters {
            spec.requires_grad &= !is_frozen(spec);
        }
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

    /// An input that the host writes before each step. Asking again for a name gives the same.
    #[track_caller]
    pub fn input(&mut self, name: &str, shape: Shape) -> Value {
        self.leaf_input(name, shape, None)
    }

    /// An input of token ids, all of which must lie below `bound`.
    #[track_caller]
    pub fn tokens(&mut self, name: &str, dims: impl Into<Vec<usize>>, bound: usize) -> Value {
        self.leaf_input(name, Shape::u32(dims), Some(bound as u32))
    }

    #[track_caller]
    fn leaf_input(&mut self, name: &str, shape: Shape, bound: Option<u32>) -> Value {
        let spec = InputSpec { name: name.to_owned(), shape, bound, ignorable: false };
        if let Some(index) = self.inputs.iter().position(|input| input.name == name) {
            let found = &self.inputs[index];
            let same = found.shape == spec.shape && found.bound == spec.bound;
            assert!(same, "input {name:?} was made with another shape: {}", found.shape);
            return self.leaf(|source| matches!(source, Source::Input(i) if *i == index));
        }
        self.inputs.push(spec.clone());
        self.push(Source::Input(self.inputs.len() - 1), vec![], vec![spec.shape], spec.name)
    }

    /// A parameter under the current scope, trained unless it is [frozen](Self::frozen). Asking
    /// again for a name gives the same tensor: that ties weights.
    #[track_caller]
    pub fn parameter(&mut self, name: &str, dims: impl Into<Vec<usize>>, init: Init) -> Value {
        let (name, shape) = (self.path(name), Shape::real(dims));
        if let Some(index) = self.parameters.iter().position(|p| p.name == name) {
            let found = &mut self.parameters[index];
            assert_eq!(found.shape, shape, "parameter {name:?} was made with another shape");
            found.requires_grad &= self.requires_grad;
            return self.leaf(|source| matches!(source, Source::Parameter(i) if *i == index));
        }
        let stream = self.parameters.len() as u32;
        self.parameters.push(ParameterSpec {
            name: name.clone(),
            shape: shape.clone(),
            init,
            stream,
            requires_grad: self.requires_grad,
        });
        let stored = shape.stored_as(self.weights.precision());
        self.push(Source::Parameter(self.parameters.len() - 1), vec![], vec![stored], name)
    }

    /// Tensors of `cols` elements under the current scope that are kept between steps: (name,
    /// initial value) for each row of one matrix. [`stage`](Self::stage) gives it a new value,
    /// which only an applied step commits.
    #[track_caller]
    pub fn state(&mut self, rows: &[(&str, f32)], cols: usize) -> Value {
        let names: Vec<_> = rows.iter().map(|(name, _)| self.path(name)).collect();
        let initial = rows.iter().map(|&(_, initial)| initial).collect();
        let spec = StateSpec { names, shape: Shape::f32([rows.len(), cols]), initial };
        if let Some(index) = self.states.iter().position(|s| s.names == spec.names) {
            assert_eq!(self.states[index], spec, "a state was made with another shape");
            return self.leaf(|source| matches!(source, Source::State(i) if *i == index));
        }
        self.states.push(spec.clone());
        let label = spec.names.join(", ");
        self.push(Source::State(self.states.len() - 1), vec![], vec![spec.shape], label)
    }

    /// Makes `new` the next value of `state`, committed by the verdict. The operation behind
    /// `new` writes in place; with gradient accumulation, [`Slot::accumulate`] tells it to go on
    /// from what it wrote for the microbatch before.
    ///
    /// [`Slot::accumulate`]: crate::record::Slot::accumulate
    #[track_caller]
    pub fn stage(&mut self, state: Value, new: Value) {
        let Source::State(index) = self.nodes[state.node].source else {
            panic!("{} is not a state", self.nodes[state.node].label);
        };
        assert_eq!(self.shape(state), self.shape(new), "a state keeps its shape");
        self.staged.push((index, new));
    }

    /// A tensor that is the same in every step, of the given shape, dense.
    #[track_caller]
    pub fn constant(&mut self, label: &str, shape: Shape, data: &[f32]) -> Value {
        assert_eq!(shape.count(), data.len(), "constant {label} of shape {shape}");
        assert_ne!(shape.element, Element::U32, "constants hold f32");
        self.push(Source::Constant(data.into()), vec![], vec![shape], label.to_owned())
    }

    /// Applies an operation and returns its first output. It runs in the current precision, or
    /// in f32 where it reads a value of [`Element::F32`] as a tensor.
    #[track_caller]
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Value]) -> Value {
        let inputs = || inputs.iter().copied().enumerate();
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
        let value = self.push(Source::Op(Rc::new(op)), inputs, outputs, label);
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

    /// Lets an input hold [`IGNORE`](crate::train::IGNORE).
    fn allow_ignored(&mut self, value: Value) {
        if let Source::Input(index) = self.nodes[value.node].source {
            self.inputs[index].ignorable = true;
        }
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
        self.nodes.push(Node { source, inputs, shapes, label, precision, index });
        Value { node: index, output: 0 }
    }

    fn leaf(&self, matches: impl Fn(&Source) -> bool) -> Value {
        let node = self.nodes.iter().position(|node| matches(&node.source));
        Value { node: node.expect("a leaf has a node"), output: 0 }
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

    /// The inputs, in the order they were made.
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// The parameters, in the order they were made.
    pub fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    /// The states, in the order they were made.
    pub fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// New values of states: (state, value).
    pub fn staged(&self) -> &[(usize, Value)] {
        &self.staged
    }

    /// Contributions to gradients of parameters, in order: (parameter, value). Filled by
    /// [`backward`](Self::backward).
    pub fn gradients(&self) -> &[(usize, Value)] {
        &self.gradients
    }
}
