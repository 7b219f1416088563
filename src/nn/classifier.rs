//! A multi-layer perceptron that classifies rows of features.

use crate::graph::ops::CrossEntropy;
use crate::graph::{Graph, Shape, Value};
use crate::init::{Fan, Nonlinearity};
use crate::kernels::Activation;
use crate::nn::{BatchNorm, Init, Linear};
use crate::train::{Model, ModelOutput};

/// Hidden layers of linear, optional BatchNorm and ReLU, then a linear head. Weights start
/// Kaiming-normal.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpClassifier {
    /// Features of a row.
    pub inputs: usize,
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Classes.
    pub classes: usize,
    /// Whether a BatchNorm stands in front of every ReLU.
    pub batch_norm: bool,
}

impl MlpClassifier {
    /// x (rows, inputs) to logits (rows, classes).
    #[track_caller]
    pub fn logits(&self, graph: &mut Graph, x: Value) -> Value {
        let kaiming = |nonlinearity| Init::KaimingNormal { nonlinearity, fan: Fan::In };
        let (mut x, mut width) = (x, self.inputs);
        for (index, &hidden) in self.hidden.iter().enumerate() {
            let linear = Linear::new(width, hidden).init(kaiming(Nonlinearity::Relu));
            x = graph.scope(format!("layers.{index}"), |graph| {
                if self.batch_norm {
                    let x = linear.forward(graph, "linear", x);
                    let x = BatchNorm::new(hidden).forward(graph, "norm", x);
                    graph.activation(x, Activation::Relu)
                } else {
                    linear.activation(Activation::Relu).forward(graph, "linear", x)
                }
            });
            width = hidden;
        }
        let head = Linear::new(width, self.classes).init(kaiming(Nonlinearity::Linear));
        head.forward(graph, "head", x)
    }
}

/// An [`MlpClassifier`] trained by cross-entropy.
///
/// Inputs are `inputs` (batch, features) and `targets` (batch).
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// The model.
    pub mlp: MlpClassifier,
    /// Rows in a microbatch.
    pub batch: usize,
}

impl Model for Classifier {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let inputs = graph.input("inputs", Shape::real([self.batch, self.mlp.inputs]));
        let targets = graph.tokens("targets", [self.batch], self.mlp.classes);
        let prediction = self.mlp.logits(graph, inputs);
        let loss =
            |graph: &mut Graph| graph.cross_entropy(prediction, targets, CrossEntropy::default());
        let loss = graph.module("loss", loss);
        ModelOutput { loss, prediction }
    }
}
