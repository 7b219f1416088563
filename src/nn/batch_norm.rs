//! Normalisation of features over the batch, with running statistics for evaluation.

use crate::graph::{Graph, Phase, Value};
use crate::nn::Init;

/// y = (x - mean) / sqrt(variance + eps) * weight + bias over each feature (Ioffe and Szegedy
/// 2015), as `torch.nn.BatchNorm1d`: the biased variance normalises, the unbiased one enters
/// `running_var`.
///
/// The running statistics are states: a step that is skipped leaves them as they were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Columns.
    pub features: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the new batch in the running statistics.
    pub momentum: f32,
}

impl BatchNorm {
    /// eps 1e-5, momentum 0.1.
    pub fn new(features: usize) -> Self {
        Self { features, eps: 1e-5, momentum: 0.1 }
    }

    /// x (rows, features) to y of the same shape. Training needs at least two rows.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        graph.scope(name, |graph| {
            let weight = graph.parameter("weight", [self.features], Init::ONE);
            let bias = graph.parameter("bias", [self.features], Init::ZERO);
            let running = [("running_mean", 0.0), ("running_var", 1.0)];
            let running = graph.state(&running, self.features);
            match graph.phase {
                Phase::Evaluate => graph.normalize_features(x, running, weight, bias, self.eps),
                Phase::Train => {
                    let (y, statistics) = graph.batch_norm(x, weight, bias, self.eps);
                    graph.update_running(running, statistics, x, self.momentum);
                    y
                }
            }
        })
    }
}
