//! Normalisation of rows, with the residual addition in front of it fused in.

use crate::graph::{Graph, Value};
use crate::nn::Init;

/// y = (x - mean) / sqrt(variance + eps) * weight + bias over each row (Ba et al. 2016).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Columns.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// y = x / sqrt(mean(x²) + eps) * (weight_offset + weight) over each row (Zhang and Sennrich 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Columns.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// 0, or 1 where weights are stored as what they differ from 1 by (Gemma); those start at 0.
    pub weight_offset: f32,
}

/// Either of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// [`LayerNorm`].
    Layer(LayerNorm),
    /// [`RmsNorm`].
    Rms(RmsNorm),
}

impl LayerNorm {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let [weight, bias] = self.parameters(graph, name);
        graph.module(name, |graph| graph.layer_norm(x, weight, bias, self.eps))
    }

    /// The norm of x + residual, and the sum itself.
    #[track_caller]
    pub fn forward_residual(
        &self,
        graph: &mut Graph,
        name: &str,
        x: Value,
        residual: Value,
    ) -> (Value, Value) {
        let [weight, bias] = self.parameters(graph, name);
        graph.module(name, |graph| graph.residual_layer_norm(x, residual, weight, bias, self.eps))
    }

    fn parameters(&self, graph: &mut Graph, name: &str) -> [Value; 2] {
        graph.scope(name, |graph| {
            [
                graph.parameter("weight", [self.width], Init::ONE),
                graph.parameter("bias", [self.width], Init::ZERO),
            ]
        })
    }
}

impl RmsNorm {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let weight = self.parameter(graph, name);
        let Self { weight_offset, eps, .. } = *self;
        graph.module(name, |graph| graph.offset_rms_norm(x, weight, weight_offset, eps))
    }

    /// The norm of x + residual, and the sum itself.
    #[track_caller]
    pub fn forward_residual(
        &self,
        graph: &mut Graph,
        name: &str,
        x: Value,
        residual: Value,
    ) -> (Value, Value) {
        let weight = self.parameter(graph, name);
        let Self { weight_offset: offset, eps, .. } = *self;
        let norm = |g: &mut Graph| g.residual_offset_rms_norm(x, residual, weight, offset, eps);
        graph.module(name, norm)
    }

    fn parameter(&self, graph: &mut Graph, name: &str) -> Value {
        let init = Init::Constant(1.0 - self.weight_offset);
        graph.scope(name, |graph| graph.parameter("weight", [self.width], init))
    }
}

impl Norm {
    /// x (.., width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        match self {
            Self::Layer(norm) => norm.forward(graph, name, x),
            Self::Rms(norm) => norm.forward(graph, name, x),
        }
    }

    /// The norm of x + residual, and the sum itself.
    #[track_caller]
    pub fn forward_residual(
        &self,
        graph: &mut Graph,
        name: &str,
        x: Value,
        residual: Value,
    ) -> (Value, Value) {
        match self {
            Self::Layer(norm) => norm.forward_residual(graph, name, x, residual),
            Self::Rms(norm) => norm.forward_residual(graph, name, x, residual),
        }
    }
}
