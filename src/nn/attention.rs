//! Causal self-attention with one fused projection for queries, keys and values.

use crate::graph::ops::AttentionLayout;
use crate::graph::{Graph, Value};
use crate::nn::{Init, Linear};

/// Multi-head or grouped-query causal self-attention.
///
/// `qkv.weight` is ((heads + 2 * kv_heads) * head_dim, width): all query rows, then keys, then
/// values; `projection.weight` is (width, heads * head_dim).
#[derive(Clone, Debug, PartialEq)]
pub struct CausalSelfAttention {
    /// Columns of x and y.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Equal for multi-head attention.
    pub kv_heads: usize,
    /// Whether the projections have a bias.
    pub bias: bool,
    /// Base of the rotary embedding of queries and keys; `None` for none.
    pub rotary_base: Option<f64>,
    /// Soft cap of the logits: cap * tanh(logit / cap). `None` for none.
    pub soft_cap: Option<f32>,
    /// How `qkv.weight` starts.
    pub init: Init,
    /// How `projection.weight` starts: it writes to the residual stream.
    pub projection_init: Init,
}

impl CausalSelfAttention {
    /// x (batch, time, width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let head_dim = self.width / self.heads;
        let columns = (self.heads + 2 * self.kv_heads) * head_dim;
        let fused = Linear::new(self.width, columns).bias(self.bias).init(self.init);
        let projection = Linear::new(self.heads * head_dim, self.width)
            .bias(self.bias)
            .init(self.projection_init);
        let layout = AttentionLayout { heads: self.heads, kv_heads: self.kv_heads, head_dim };
        graph.scope(name, |graph| {
            let mut qkv = fused.forward(graph, "qkv", x);
            if let Some(base) = self.rotary_base {
                qkv = graph.rotary(qkv, self.heads + self.kv_heads, head_dim, base);
            }
            let mixed = graph.attention(qkv, layout, self.soft_cap);
            projection.forward(graph, "projection", mixed)
        })
    }
}
