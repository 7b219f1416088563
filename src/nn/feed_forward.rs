//! The position-wise part of a transformer block.

use crate::graph::{Graph, Value};
use crate::kernels::Activation;
use crate::nn::{Init, Linear, LinearAdapter};

/// down(activation(up(x))).
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// Columns of x and y.
    pub width: usize,
    /// Columns between.
    pub hidden: usize,
    /// Between the two layers.
    pub activation: Activation,
    /// Whether the layers have a bias.
    pub bias: bool,
    /// How `up.weight` starts.
    pub init: Init,
    /// How `down.weight` starts: it writes to the residual stream.
    pub projection_init: Init,
    /// Low-rank updates of `up` and of `down`.
    pub adapters: [Option<LinearAdapter>; 2],
}

impl Mlp {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let [of_up, of_down] = self.adapters.clone();
        let up = Linear::new(self.width, self.hidden)
            .bias(self.bias)
            .activation(self.activation)
            .init(self.init)
            .adapter(of_up);
        let down = Linear::new(self.hidden, self.width)
            .bias(self.bias)
            .init(self.projection_init)
            .adapter(of_down);
        graph.scope(name, |graph| {
            let hidden = up.forward(graph, "up", x);
            down.forward(graph, "down", hidden)
        })
    }
}

/// down(activation(gate(x)) * up(x)) (Shazeer 2020): SwiGLU with [`Activation::Silu`], GeGLU with a
/// GELU. `gate_up.weight` is (2 * hidden, width): the gate's rows, then the up rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedMlp {
    /// Columns of x and y.
    pub width: usize,
    /// Columns between, a multiple of 4.
    pub hidden: usize,
    /// Of the gate.
    pub activation: Activation,
    /// Whether the layers have a bias.
    pub bias: bool,
    /// How `gate_up.weight` starts.
    pub init: Init,
    /// How `down.weight` starts: it writes to the residual stream.
    pub projection_init: Init,
    /// Low-rank updates of `gate_up` and of `down`.
    pub adapters: [Option<LinearAdapter>; 2],
}

impl GatedMlp {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let [of_gate_up, of_down] = self.adapters.clone();
        let gate_up = Linear::new(self.width, 2 * self.hidden)
            .bias(self.bias)
            .init(self.init)
            .adapter(of_gate_up);
        let down = Linear::new(self.hidden, self.width)
            .bias(self.bias)
            .init(self.projection_init)
            .adapter(of_down);
        graph.scope(name, |graph| {
            let both = gate_up.forward(graph, "gate_up", x);
            let hidden = graph.gated(both, self.activation);
            down.forward(graph, "down", hidden)
        })
    }
}

/// Either of them.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForward {
    /// [`Mlp`].
    Mlp(Mlp),
    /// [`GatedMlp`].
    Gated(GatedMlp),
}

impl FeedForward {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        match self {
            Self::Mlp(mlp) => mlp.forward(graph, name, x),
            Self::Gated(gated) => gated.forward(graph, name, x),
        }
    }
}
