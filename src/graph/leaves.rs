//! The leaves of a graph: inputs, parameters (trained or frozen), states and constants.

use super::{Element, Graph, InputSpec, Node, ParameterSpec, Shape, Source, StateSpec, Value};
use crate::graph::Phase;
use crate::init::Init;
use crate::kernel::BlockFormat;

/// Random streams from here on are of added parameters; those below, counted up, of the others.
const ADDED: u32 = 1 << 31;

/// FNV-1a.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Graph {
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
        let stream = self.next_stream();
        let requires_grad = self.requires_grad && !self.is_base_frozen;
        self.parameter_in(self.path(name), Shape::real(dims), init, stream, requires_grad)
    }

    /// A [`parameter`](Self::parameter) (.., columns) that is only multiplied with, looked up in or
    /// measured: in blocks where [`in_blocks`](Self::in_blocks) says so, as the weights of linear
    /// layers and tables of tokens are.
    ///
    /// Blocks are not trained. In a graph for training the parameter must be
    /// [frozen](Self::frozen), or no [`Parameters`](crate::plan::Parameters) are made of it.
    ///
    /// # Panics
    /// For blocks, unless it is a matrix with a multiple of 32 columns.
    #[track_caller]
    pub fn weight(&mut self, name: &str, dims: impl Into<Vec<usize>>, init: Init) -> Value {
        let Some(format) = self.blocks else { return self.parameter(name, dims, init) };
        let dims = dims.into();
        let path = self.path(name);
        let [_, columns] = dims[..] else { panic!("{path} in {format}: {dims:?} is no matrix") };
        assert!(
            columns.is_multiple_of(BlockFormat::ELEMENTS),
            "{path} has rows of {columns}, and {format} blocks of {}: leave it in f32",
            BlockFormat::ELEMENTS
        );
        let stream = self.next_stream();
        let is_trained = self.requires_grad && !self.is_base_frozen && self.phase == Phase::Train;
        self.parameter_in(path, Shape::blocks(dims, format), init, stream, is_trained)
    }

    /// Runs `build` with weights in blocks of this format, or none: a frozen base in 4 or 8 bits.
    /// Kernels that read them [de-quantize](BlockFormat) as they load; there is no other copy.
    pub fn in_blocks<T>(
        &mut self,
        format: Option<BlockFormat>,
        build: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outside = std::mem::replace(&mut self.blocks, format);
        let result = build(self);
        self.blocks = outside;
        result
    }

    fn next_stream(&self) -> u32 {
        self.parameters.iter().filter(|spec| spec.stream < ADDED).count() as u32
    }

    /// A parameter beside those of a model that was there before, such as an adapter. Its initial
    /// values follow from the seed and its name, and those of the model's own parameters are the same
    /// with and without it.
    #[track_caller]
    pub fn added_parameter(
        &mut self,
        name: &str,
        dims: impl Into<Vec<usize>>,
        init: Init,
    ) -> Value {
        let name = self.path(name);
        let stream = ADDED | hash(&name) >> 1;
        self.parameter_in(name, Shape::real(dims), init, stream, self.requires_grad)
    }

    #[track_caller]
    fn parameter_in(
        &mut self,
        name: String,
        shape: Shape,
        init: Init,
        stream: u32,
        requires_grad: bool,
    ) -> Value {
        if let Some(index) = self.parameters.iter().position(|p| p.name == name) {
            let found = &mut self.parameters[index];
            assert_eq!(found.shape, shape, "parameter {name:?} was made with another shape");
            found.requires_grad &= requires_grad;
            return self.leaf(|source| matches!(source, Source::Parameter(i) if *i == index));
        }
        self.parameters.push(ParameterSpec {
            name: name.clone(),
            shape: shape.clone(),
            init,
            stream,
            requires_grad,
        });
        let stored = shape.stored_as(self.weights.precision());
        self.push(Source::Parameter(self.parameters.len() - 1), vec![], vec![stored], name)
    }

    /// Lets a parameter start as a value that is computed from other parameters, once those have
    /// their own: the norms of a weight's rows, say. [`Parameters::new`] does so, and
    /// [`Parameters::start`] again.
    ///
    /// # Panics
    /// For a value of other dimensions, or where the first is no parameter.
    ///
    /// [`Parameters::new`]: crate::plan::Parameters::new
    /// [`Parameters::start`]: crate::plan::Parameters::start
    #[track_caller]
    pub fn start_as(&mut self, parameter: Value, value: Value) {
        let Source::Parameter(index) = self.nodes[parameter.node].source else {
            panic!("{} is not a parameter", self.nodes[parameter.node].label);
        };
        let dims = |value| &self.shape(value).dims;
        assert_eq!(dims(parameter), dims(value), "a parameter keeps its shape");
        if self.starts.iter().all(|&(other, _)| other != index) {
            self.starts.push((index, value));
        }
    }

    /// Parameters that start as a value of the graph: (parameter, value).
    pub fn starts(&self) -> &[(usize, Value)] {
        &self.starts
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

    /// The same, and where the graph has such a tensor already, that one.
    #[track_caller]
    pub(super) fn shared_constant(&mut self, label: &str, shape: Shape, data: &[f32]) -> Value {
        let is_same = |node: &&Node| {
            let holds = matches!(&node.source, Source::Constant(held) if held[..] == *data);
            holds && node.shapes[0] == shape
        };
        match self.nodes.iter().find(is_same) {
            Some(node) => node.output(0),
            None => self.constant(label, shape, data),
        }
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

    /// Runs `build` with only [added](Self::added_parameter) parameters trained, and all others
    /// [frozen](Self::frozen): adapters beside a model that stays as it is.
    pub fn frozen_base<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let outside = std::mem::replace(&mut self.is_base_frozen, true);
        let result = build(self);
        self.is_base_frozen = outside;
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

    /// Lets an input hold [`IGNORE`](crate::train::IGNORE).
    pub(super) fn allow_ignored(&mut self, value: Value) {
        if let Source::Input(index) = self.nodes[value.node].source {
            self.inputs[index].ignorable = true;
        }
    }

    fn leaf(&self, matches: impl Fn(&Source) -> bool) -> Value {
        let node = self.nodes.iter().position(|node| matches(&node.source));
        Value { node: node.expect("a leaf has a node"), output: 0 }
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
}
