//! A pre-norm transformer block over a residual stream.

use crate::graph::{Graph, Value};
use crate::nn::generate::CachedRows;
use crate::nn::{CausalSelfAttention, Dropout, FeedForward, Norm};

/// The residual stream between two layers: its value so far and the last branch, which has not
/// been added yet. The addition is fused into the next norm.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// The stream.
    pub stream: Value,
    /// What is still to be added.
    pub branch: Option<Value>,
}

impl Residual {
    /// Norms stream + branch, and takes the sum as the new stream.
    #[track_caller]
    pub fn norm(&mut self, graph: &mut Graph, norm: &Norm, name: &str) -> Value {
        match self.branch.take() {
            None => norm.forward(graph, name, self.stream),
            Some(branch) => {
                let (normed, sum) = norm.forward_residual(graph, name, self.stream, branch);
                self.stream = sum;
                normed
            }
        }
    }
}

/// x + attention(norm1(x)), then x + mlp(norm2(x)). With `post_norms` each branch passes another
/// norm before it is added: x + post_attention_norm(attention(norm1(x))), then
/// x + post_mlp_norm(mlp(norm2(x))) (Gemma 2).
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// In front of the attention; the others are of the same kind.
    pub norm: Norm,
    /// The attention.
    pub attention: CausalSelfAttention,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
    /// Whether branches are normed before they are added.
    pub post_norms: bool,
    /// On both branches.
    pub dropout: Dropout,
}

impl Block {
    /// The residual stream (batch, time, width) through the block.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, residual: Residual) -> Residual {
        self.forward_in(graph, name, residual, None)
    }

    /// The same of whole sequences, or of rows that go on with what is in a cache.
    #[track_caller]
    pub(super) fn forward_in(
        &self,
        graph: &mut Graph,
        name: &str,
        mut residual: Residual,
        cached: Option<&mut CachedRows>,
    ) -> Residual {
        graph.scope(name, |graph| {
            let x = residual.norm(graph, &self.norm, "norm1");
            let x = self.attention.forward_in(graph, "attention", x, cached);
            residual.branch = Some(self.branch(graph, "post_attention_norm", x));
            let x = residual.norm(graph, &self.norm, "norm2");
            let x = self.feed_forward.forward(graph, "mlp", x);
            residual.branch = Some(self.branch(graph, "post_mlp_norm", x));
            residual
        })
    }

    /// What is added to the stream.
    #[track_caller]
    fn branch(&self, graph: &mut Graph, norm: &str, x: Value) -> Value {
        let x = if self.post_norms { self.norm.forward(graph, norm, x) } else { x };
        self.dropout.forward(graph, x)
    }
}
