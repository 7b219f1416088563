//! A decoder-only transformer language model, from GPT-2 to the Llama and Gemma families.

use crate::error::Result;
use crate::graph::{Graph, Phase, Value};
use crate::kernels::Activation;
use crate::nn::generate::CachedRows;
use crate::nn::{
    Block, CausalSelfAttention, ClippedAttention, Dropout, Embedding, FeedForward, FeedForwardKind,
    GatedMlp, GptConfig, Init, LayerNorm, Mlp, Norm, Positions, Residual, RmsNorm,
};
use crate::train::{Model, ModelOutput};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt {
    config: GptConfig,
}

impl Gpt {
    /// A model of this shape.
    ///
    /// # Errors
    /// As [`GptConfig::validate`].
    pub fn new(config: GptConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config })
    }

    /// Its shape.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    fn norm(&self) -> Norm {
        let GptConfig { width, norm_eps: eps, norm_weight_offset: weight_offset, .. } = self.config;
        if self.config.rms_norm {
            Norm::Rms(RmsNorm { width, eps, weight_offset })
        } else {
            Norm::Layer(LayerNorm { width, eps })
        }
    }

    fn block(&self, layer: usize) -> Block {
        Block {
            norm: self.norm(),
            attention: self.attention(layer),
            feed_forward: self.feed_forward(layer),
            post_norms: self.config.post_norms,
            dropout: Dropout { probability: self.config.dropout },
        }
    }

    fn attention(&self, layer: usize) -> CausalSelfAttention {
        let config = &self.config;
        CausalSelfAttention {
            width: config.width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim(),
            qkv_bias: config.bias || config.qkv_bias,
            bias: config.bias,
            rotary: config.rotary_of(layer),
            qk_norm: config.qk_norm,
            norm_eps: config.norm_eps,
            norm_weight_offset: config.norm_weight_offset,
            scale: config.attention_scale,
            soft_cap: config.soft_cap,
            window: config.window_of(layer),
            qk_clip: config.qk_clip,
            watch: config.watch_logits,
            init: Init::GPT2,
            projection_init: Init::gpt2_residual(config.layers),
            adapters: ["attention.qkv", "attention.projection"]
                .map(|name| config.adapter_of(layer, name)),
        }
    }

    fn feed_forward(&self, layer: usize) -> FeedForward {
        let GptConfig { width, hidden, bias, layers, feed_forward: kind, .. } = self.config;
        let (init, projection_init) = (Init::GPT2, Init::gpt2_residual(layers));
        let activation = match kind {
            FeedForwardKind::Gelu => Activation::GeluErf,
            FeedForwardKind::GeluTanh | FeedForwardKind::GeGlu => Activation::GeluTanh,
            FeedForwardKind::SwiGlu => Activation::Silu,
        };
        let first = if kind.is_gated() { "mlp.gate_up" } else { "mlp.up" };
        let adapters = [first, "mlp.down"].map(|name| self.config.adapter_of(layer, name));
        if kind.is_gated() {
            let gated =
                GatedMlp { width, hidden, activation, bias, init, projection_init, adapters };
            FeedForward::Gated(gated)
        } else {
            let mlp = Mlp { width, hidden, activation, bias, init, projection_init, adapters };
            FeedForward::Mlp(mlp)
        }
    }

    /// tokens (batch, time) to logits (batch, time, vocabulary).
    ///
    /// # Panics
    /// Where time exceeds the context.
    #[track_caller]
    pub fn logits(&self, graph: &mut Graph, tokens: Value) -> Value {
        let x = self.hidden(graph, tokens);
        self.head(graph, x)
    }

    /// The logits of some positions of one sequence: tokens (1, time) and positions (..) to
    /// logits (.., vocabulary). Those of all positions may be more than the device can bind.
    ///
    /// # Panics
    /// Where time exceeds the context.
    #[track_caller]
    pub fn logits_at(&self, graph: &mut Graph, tokens: Value, positions: Value) -> Value {
        let x = self.hidden(graph, tokens);
        let x = graph.embedding(x, positions);
        self.head(graph, x)
    }

    /// tokens (1, sequences * rows) at positions of texts that a cache has up to there, to what the
    /// head reads of the rows `last` (sequences), and their logits (sequences, vocabulary).
    #[track_caller]
    pub(super) fn cached_logits(
        &self,
        graph: &mut Graph,
        tokens: Value,
        last: Value,
        cached: &mut CachedRows,
    ) -> [Value; 2] {
        let x = self.beside_adapters(graph, |graph| self.blocks(graph, tokens, Some(cached)));
        let x = graph.embedding(x, last);
        [x, self.head(graph, x)]
    }

    /// Runs `build` with all parameters but those of adapters frozen, where the model has adapters,
    /// and with the weights of the base in blocks, where it has these.
    #[track_caller]
    fn beside_adapters<T>(&self, graph: &mut Graph, build: impl FnOnce(&mut Graph) -> T) -> T {
        let build = |graph: &mut Graph| graph.in_blocks(self.config.base_format, build);
        if self.config.lora.is_some() { graph.frozen_base(build) } else { build(graph) }
    }

    /// tokens (.., time) to what the head reads, (.., time, width).
    #[track_caller]
    fn hidden(&self, graph: &mut Graph, tokens: Value) -> Value {
        self.beside_adapters(graph, |graph| self.blocks(graph, tokens, None))
    }

    #[track_caller]
    fn blocks(
        &self,
        graph: &mut Graph,
        tokens: Value,
        mut cached: Option<&mut CachedRows>,
    ) -> Value {
        let config = &self.config;
        let time = graph.shape(tokens).cols();
        let fits = cached.is_some() || time <= config.context;
        assert!(fits, "{time} positions, the context is {}", config.context);
        let embedding = Embedding::new(config.vocabulary, config.width);
        let mut x = match config.embedding_adapter() {
            None => embedding.forward(graph, "token_embedding", tokens),
            Some(adapter) => adapter.embed(graph, "token_embedding", &embedding, tokens),
        };
        if let Some(scale) = config.embedding_scale {
            x = graph.module("token_embedding", |graph| graph.scale(x, scale));
        }
        if config.positions == Positions::Learned {
            let positions = Embedding::new(config.context, config.width);
            // It is added, not looked up in.
            let table = graph.in_blocks(None, |graph| positions.table(graph, "position_embedding"));
            x = graph.module("position_embedding", |graph| match &cached {
                None => graph.add_positions(x, table),
                Some(rows) => rows.add_positions(graph, x, table),
            });
        }
        let x = Dropout { probability: config.dropout }.forward(graph, x);
        let mut residual = Residual { stream: x, branch: None };
        for layer in 0..config.layers {
            let mut block = |graph: &mut Graph| {
                let cached = cached.as_deref_mut();
                self.block(layer).forward_in(graph, &format!("blocks.{layer}"), residual, cached)
            };
            residual = if config.recompute { graph.recompute(block) } else { block(graph) };
        }
        residual.norm(graph, &self.norm(), "norm")
    }

    #[track_caller]
    fn head(&self, graph: &mut Graph, x: Value) -> Value {
        let config = &self.config;
        let logits = self.beside_adapters(graph, |graph| self.projected(graph, x));
        match config.logit_soft_cap {
            Some(cap) => graph.module("head", |graph| graph.soft_cap(logits, cap)),
            None => logits,
        }
    }

    /// (vocabulary, width)
    #[track_caller]
    fn head_weight(&self, graph: &mut Graph) -> Value {
        let GptConfig { vocabulary, width, tied_head, .. } = self.config;
        if tied_head {
            return Embedding::new(vocabulary, width).table(graph, "token_embedding");
        }
        graph.scope("head", |graph| graph.weight("weight", [vocabulary, width], Init::GPT2))
    }

    /// x (.., width) to logits before their cap.
    #[track_caller]
    fn projected(&self, graph: &mut Graph, x: Value) -> Value {
        let weight = self.head_weight(graph);
        graph.scope("head", |graph| match self.config.head_adapter() {
            None => graph.linear(x, weight, None, Activation::None),
            Some(adapter) => adapter.forward(graph, x, weight, None),
        })
    }

    /// The layers of this model in `graph` that [`GptConfig::qk_clip`] is to clip after each step.
    pub fn clipped(&self, graph: &Graph) -> Vec<ClippedAttention> {
        let layer =
            |layer| self.attention(layer).clipped(graph, &format!("blocks.{layer}.attention"));
        (0..self.config.layers).filter_map(layer).collect()
    }
}

/// A [`Gpt`] trained to predict the next token.
///
/// The loss is the mean over the targets of the step of cross-entropy (with label smoothing where
/// it is set), plus the z-loss where that is set: z mean(lse²), observed apart with
/// [`watch_logits`](GptConfig::watch_logits). Inputs are `tokens` and `targets`, both (batch,
/// time); targets of [`IGNORE`](crate::train::IGNORE) do not count.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageModel {
    /// The model.
    pub gpt: Gpt,
    /// Sequences in a microbatch.
    pub batch: usize,
    /// Positions in a sequence, where a trainer has no [lengths] of its own.
    ///
    /// [lengths]: crate::train::TrainerBuilder::lengths
    pub time: usize,
}

impl Model for LanguageModel {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let vocabulary = self.gpt.config.vocabulary;
        let time = graph.length().unwrap_or(self.time);
        let tokens = graph.tokens("tokens", [self.batch, time], vocabulary);
        let targets = graph.tokens("targets", [self.batch, time], vocabulary);
        let x = self.gpt.hidden(graph, tokens);
        let prediction = self.gpt.head(graph, x);
        let config = &self.gpt.config;
        let chunked = config.chunked_loss(graph, self.batch * time);
        let loss = if let Some(settings) = chunked {
            let weight = self.gpt.beside_adapters(graph, |graph| self.gpt.head_weight(graph));
            let loss = |graph: &mut Graph| graph.linear_cross_entropy(x, weight, targets, settings);
            graph.module("head", loss)
        } else {
            let loss = |graph: &mut Graph| graph.cross_entropy(prediction, targets, config.loss);
            graph.module("loss", loss)
        };
        if config.watch_logits && graph.phase == Phase::Train {
            let z_loss = config.loss.z_loss;
            let logits = graph.module("loss", |graph| graph.loss_logits(loss, z_loss));
            graph.observe("max_logit", logits.max_logit);
            graph.observe("z_loss", logits.z_loss);
        }
        ModelOutput { loss, prediction }
    }

    fn configuration(&self) -> String {
        self.gpt.config.words()
    }
}
