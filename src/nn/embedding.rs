//! Table look-up, and dropout.

use crate::graph::{Graph, Phase, Value};
use crate::nn::Init;

/// A table of `count` rows of `width`; its parameter is `weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Rows: the vocabulary.
    pub count: usize,
    /// Columns.
    pub width: usize,
    /// How the table starts.
    pub init: Init,
}

impl Embedding {
    /// A table that starts as N(0, 0.02²), as in GPT-2.
    pub fn new(count: usize, width: usize) -> Self {
        Self { count, width, init: Init::GPT2 }
    }

    /// The table itself, to tie it to a head.
    #[track_caller]
    pub fn table(&self, graph: &mut Graph, name: &str) -> Value {
        let dims = [self.count, self.width];
        graph.scope(name, |graph| graph.weight("weight", dims, self.init))
    }

    /// tokens (..) to rows (.., width).
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, tokens: Value) -> Value {
        let table = self.table(graph, name);
        graph.module(name, |graph| graph.embedding(table, tokens))
    }
}

/// Zeroes each element with probability `probability` while training and scales the others by
/// 1 / (1 - probability) (Srivastava et al. 2014). The mask depends only on the run's seed, the
/// step, the layer and the position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// In [0, 1).
    pub probability: f32,
}

impl Dropout {
    /// The identity in evaluation, and where the probability is 0.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, x: Value) -> Value {
        if graph.phase == Phase::Evaluate || self.probability == 0.0 {
            return x;
        }
        graph.dropout(x, self.probability)
    }
}
