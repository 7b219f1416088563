//! Causal self-attention with one fused projection for queries, keys and values.

use crate::graph::ops::{AttentionLayout, AttentionSettings, HeadNorm, QkNorm};
use crate::graph::{Graph, Phase, Value};
use crate::nn::generate::CachedRows;
use crate::nn::{ClippedAttention, Init, Linear, LinearAdapter, QkClip, Rotary};

/// Multi-head or grouped-query causal self-attention.
///
/// `qkv.weight` is ((heads + 2 * kv_heads) * head_dim, width): all query rows, then keys, then
/// values; `projection.weight` is (width, heads * head_dim).
///
/// Three things bound the logits scale q·k, whose growth ends many runs: `qk_norm` bounds
/// them by the weights of the norms, `soft_cap` by its cap, and `qk_clip` shrinks the projection
/// after a step in which they exceeded its threshold. The softmax and its product with the values
/// are f32 whatever the storage of activations.
#[derive(Clone, Debug, PartialEq)]
pub struct CausalSelfAttention {
    /// Columns of x and y.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Equal for multi-head attention.
    pub kv_heads: usize,
    /// Columns of a head: width / heads usually.
    pub head_dim: usize,
    /// Whether the projection to queries, keys and values has a bias.
    pub qkv_bias: bool,
    /// Whether the projection back has a bias.
    pub bias: bool,
    /// Rotary embedding of queries and keys; `None` for none.
    pub rotary: Option<Rotary>,
    /// Norm of each head of queries and keys before the rotation, with weights `q_norm.weight` and
    /// `k_norm.weight` (head_dim) that all heads share. `None` for none.
    pub qk_norm: Option<QkNorm>,
    /// Added to the mean square in `qk_norm`.
    pub norm_eps: f32,
    /// Added to the weights of `qk_norm`: 0, or 1 for weights that start at 0 (Gemma 3).
    pub norm_weight_offset: f32,
    /// Factor on q·k; `None` for 1 / sqrt(head_dim).
    pub scale: Option<f32>,
    /// Soft cap of the logits: cap * tanh(logit / cap) (Gemma 2: 50). `None` for none.
    pub soft_cap: Option<f32>,
    /// Positions that each sees, itself and those before it; `None` for all before it.
    pub window: Option<usize>,
    /// Clip of the projection by the largest logits. `None` for none.
    pub qk_clip: Option<QkClip>,
    /// Observes `max_logit` and `entropy` of every head while training; so does `qk_clip`.
    pub watch: bool,
    /// How `qkv.weight` starts.
    pub init: Init,
    /// How `projection.weight` starts: it writes to the residual stream.
    pub projection_init: Init,
    /// Low-rank updates of `qkv` and of `projection`.
    pub adapters: [Option<LinearAdapter>; 2],
}

impl CausalSelfAttention {
    fn layout(&self) -> AttentionLayout {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        AttentionLayout { heads, kv_heads, head_dim }
    }

    /// x (batch, time, width) to y of the same shape.
    #[track_caller]
    pub fn forward(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        self.forward_in(graph, name, x, None)
    }

    /// The same of whole sequences, or of rows that go on with what is in a cache.
    #[track_caller]
    pub(super) fn forward_in(
        &self,
        graph: &mut Graph,
        name: &str,
        x: Value,
        mut cached: Option<&mut CachedRows>,
    ) -> Value {
        let head_dim = self.head_dim;
        let columns = (self.heads + 2 * self.kv_heads) * head_dim;
        let [of_fused, of_projection] = self.adapters.clone();
        let fused =
            Linear::new(self.width, columns).bias(self.qkv_bias).init(self.init).adapter(of_fused);
        let projection = Linear::new(self.heads * head_dim, self.width)
            .bias(self.bias)
            .init(self.projection_init)
            .adapter(of_projection);
        graph.scope(name, |graph| {
            let mut qkv = fused.forward(graph, "qkv", x);
            if let Some(kind) = self.qk_norm {
                qkv = self.norm_heads(graph, qkv, kind);
            }
            if let Some(rotary) = self.rotary {
                let frequencies = rotary.frequencies(head_dim);
                let heads = self.heads + self.kv_heads;
                qkv = match &mut cached {
                    None => graph.rotary_by(qkv, heads, frequencies),
                    Some(rows) => rows.rotate(graph, qkv, heads, frequencies),
                };
            }
            let mixed = match cached {
                None => self.attend(graph, qkv),
                Some(rows) => rows.attend(graph, qkv, self.layout(), self.settings()),
            };
            if let Some(clipped) = self.clipped(graph, &graph.scope_name()) {
                graph.after_update(clipped);
            }
            projection.forward(graph, "projection", mixed)
        })
    }

    fn norm_heads(&self, graph: &mut Graph, qkv: Value, kind: QkNorm) -> Value {
        let Self { norm_eps: eps, norm_weight_offset: weight_offset, head_dim, .. } = *self;
        let init = Init::Constant(1.0 - weight_offset);
        let weights = ["q_norm", "k_norm"]
            .map(|name| graph.scope(name, |graph| graph.parameter("weight", [head_dim], init)));
        let norm = HeadNorm { layout: self.layout(), kind, eps, weight_offset };
        graph.head_norm(qkv, weights, norm)
    }

    fn settings(&self) -> AttentionSettings {
        let Self { scale, soft_cap, window, .. } = *self;
        AttentionSettings { scale, soft_cap, window }
    }

    fn attend(&self, graph: &mut Graph, qkv: Value) -> Value {
        let settings = self.settings();
        let watched = self.watch || self.qk_clip.is_some();
        if !watched || graph.phase == Phase::Evaluate {
            return graph.attention(qkv, self.layout(), settings);
        }
        let (mixed, logits) = graph.watched_attention(qkv, self.layout(), settings);
        graph.observe("max_logit", logits.max_logit);
        graph.observe("entropy", logits.entropy);
        mixed
    }

    /// What [`qk_clip`](Self::qk_clip) does after each step to the layer that was made in `graph`
    /// with the dotted name `path`; `None` where there is no clip or no such layer.
    pub fn clipped(&self, graph: &Graph, path: &str) -> Option<ClippedAttention> {
        let parameter = |name: &str| {
            let name = format!("{path}.qkv.{name}");
            graph.parameters().iter().position(|spec| spec.name == name)
        };
        let observed = format!("{path}.max_logit");
        let observation = graph.observations().iter().find(|(name, _)| *name == observed);
        Some(ClippedAttention {
            clip: self.qk_clip?,
            layout: self.layout(),
            max_logit: observation?.1,
            parameters: [parameter("weight"), parameter("bias")].into_iter().flatten().collect(),
        })
    }
}
