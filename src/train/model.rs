//! What is trained: a graph with inputs, parameters and a loss.

use crate::graph::{Graph, Value};

/// What a model gives a trainer.
#[derive(Clone, Copy, Debug)]
pub struct ModelOutput {
    /// One f32 number to be minimised: in a step of several microbatches, the mean of theirs. A
    /// [cross-entropy](Graph::cross_entropy) in it is the mean over the targets of all.
    pub loss: Value,
    /// What the model predicts: logits, usually.
    pub prediction: Value,
}

/// Something that can be trained: it builds its graph, with inputs, parameters and a loss.
///
/// The graph says whether it is for training or evaluation; build both from the same code, so
/// that parameter names agree. Closures `Fn(&mut Graph) -> ModelOutput` are models.
pub trait Model {
    /// Builds the model in `graph`.
    fn build(&self, graph: &mut Graph) -> ModelOutput;

    /// What the model does with its tensors that their names and shapes do not show, in words: how
    /// many heads, say, but nothing that may change within a run, such as dropout. A checkpoint of
    /// other words is refused. Empty, the default, says nothing.
    fn configuration(&self) -> String {
        String::new()
    }
}

impl<F: Fn(&mut Graph) -> ModelOutput> Model for F {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        self(graph)
    }
}
