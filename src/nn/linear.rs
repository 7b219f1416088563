//! y = activation(x Wᵀ + b).

use crate::graph::{Graph, Value};
use crate::kernels::Activation;
use crate::nn::{Init, LinearAdapter};

/// A dense layer with PyTorch's layout: `weight` is (outputs, inputs), `bias` is (outputs).
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Columns of x.
    pub inputs: usize,
    /// Columns of y.
    pub outputs: usize,
    /// Whether there is a bias. It starts at zero.
    pub bias: bool,
    /// Applied to the result, in the same kernel.
    pub activation: Activation,
    /// How the weight starts.
    pub init: Init,
    /// Low-rank updates of the weight; `None` for none. Then the activation has a kernel of its own.
    pub adapter: Option<LinearAdapter>,
}

impl Linear {
    /// A layer with a bias, no activation, and PyTorch's default weights, [`Init::LINEAR`].
    pub fn new(inputs: usize, outputs: usize) -> Self {
        let activation = Activation::None;
        Self { inputs, outputs, bias: true, activation, init: Init::LINEAR, adapter: None }
    }

    /// With or without a bias.
    #[must_use]
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With an activation in the same kernel.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// With another initialiser for the weight.
    #[must_use]
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// With an adapter, or without.
    #[must_use]
    pub fn adapter(mut self, adapter: Option<LinearAdapter>) -> Self {
        self.adapter = adapter;
        self
    }

    /// x (.., inputs) to y (.., outputs).
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        graph.scope(name, |graph| {
            let weight = graph.weight("weight", [self.outputs, self.inputs], self.init);
            let bias = self.bias.then(|| graph.parameter("bias", [self.outputs], Init::ZERO));
            match &self.adapter {
                None => graph.linear(x, weight, bias, self.activation),
                Some(adapter) => {
                    let y = adapter.forward(graph, x, weight, bias);
                    graph.activation(y, self.activation)
                }
            }
        })
    }
}
