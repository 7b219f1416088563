//! Faults that are put into a run on purpose.

use evenkeel::Precision;
use evenkeel::graph::{Graph, Phase, Shape};
use evenkeel::train::{Model, ModelOutput};

/// What is done to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Its loss is NaN, and so are all gradients.
    Nan,
    /// Its loss is Inf.
    Infinity,
    /// Its loss and all gradients are ten thousand times too large.
    Spike,
    /// Its tokens and targets are drawn at random.
    Outlier,
    /// The learning rate is a hundred times too high, for five steps.
    LearningRate,
}

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Nan, Self::Infinity, Self::Spike, Self::Outlier, Self::LearningRate];

    /// Steps that it lasts.
    pub const fn steps(self) -> usize {
        match self {
            Self::LearningRate => 5,
            _ => 1,
        }
    }

    /// What the loss is multiplied with.
    pub const fn loss_factor(self) -> f32 {
        match self {
            Self::Nan => f32::NAN,
            Self::Infinity => f32::INFINITY,
            Self::Spike => 1e4,
            Self::Outlier | Self::LearningRate => 1.0,
        }
    }

    /// What the learning rate is multiplied with.
    pub const fn rate_factor(self) -> f32 {
        match self {
            Self::LearningRate => 100.0,
            _ => 1.0,
        }
    }
}

/// A model whose loss is multiplied by the input `disturbance` in training: 1 changes nothing.
#[derive(Clone, Debug)]
pub struct Disturbed<M>(pub M);

impl<M: Model> Model for Disturbed<M> {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let output = self.0.build(graph);
        if graph.phase == Phase::Evaluate {
            return output;
        }
        let factor = graph.input("disturbance", Shape::f32([1]));
        let loss = graph.with_precision(Precision::F32, |g| g.multiply(output.loss, factor));
        ModelOutput { loss, ..output }
    }

    fn configuration(&self) -> String {
        self.0.configuration()
    }
}
