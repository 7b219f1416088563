//! A decoder-only transformer language model, from GPT-2 to the Llama family.

use crate::error::{Error, Result};
use crate::graph::ops::CrossEntropy;
use crate::graph::{Graph, Phase, Value};
use crate::kernels::Activation;
use crate::nn::{
    Block, CausalSelfAttention, ClippedAttention, Dropout, Embedding, FeedForward, Init, LayerNorm,
    Linear, Mlp, Norm, QkClip, QkNorm, Residual, RmsNorm, SwiGlu,
};
use crate::train::{Model, ModelOutput};

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned table, added to the token embedding (GPT-2).
    Learned,
    /// Rotation of queries and keys (Su et al. 2021), with this base; usually 10,000.
    Rotary(f64),
}

/// Shape and variants of a [`Gpt`].
#[derive(Clone, Debug, PartialEq)]
pub struct GptConfig {
    /// Number of tokens.
    pub vocabulary: usize,
    /// The most positions.
    pub context: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: `heads` for multi-head, fewer for grouped-query attention.
    pub kv_heads: usize,
    /// Columns of the residual stream.
    pub width: usize,
    /// Columns inside the feed-forward part.
    pub hidden: usize,
    /// Learned or rotary.
    pub positions: Positions,
    /// RMSNorm instead of LayerNorm.
    pub rms_norm: bool,
    /// SwiGLU instead of GELU.
    pub swiglu: bool,
    /// Whether linear layers have a bias.
    pub bias: bool,
    /// Whether the head shares the token embedding's table.
    pub tied_head: bool,
    /// Probability of dropout on the embedding and on every residual branch.
    pub dropout: f32,
    /// Soft cap of attention logits (Gemma 2: 50).
    pub soft_cap: Option<f32>,
    /// Soft cap of the logits that the model predicts (Gemma 2: 30), also when it generates.
    pub logit_soft_cap: Option<f32>,
    /// Norm of each head of queries and keys, with `norm_eps`.
    pub qk_norm: Option<QkNorm>,
    /// Clip of the projections of queries and keys by their largest logits.
    pub qk_clip: Option<QkClip>,
    /// Observes logits while training: `blocks.N.attention.max_logit` and `.entropy` of every head,
    /// `max_logit` of the predictions, and `z_loss`, the part of the loss that is not cross-entropy.
    pub watch_logits: bool,
    /// Added to the variance in norms.
    pub norm_eps: f32,
    /// Label smoothing and z-loss.
    pub loss: CrossEntropy,
}

impl GptConfig {
    /// GPT-2's form: learned positions, LayerNorm, GELU, biases, tied head, no dropout.
    pub fn gpt2(
        vocabulary: usize,
        context: usize,
        layers: usize,
        heads: usize,
        width: usize,
    ) -> Self {
        Self {
            vocabulary,
            context,
            layers,
            heads,
            kv_heads: heads,
            width,
            hidden: 4 * width,
            positions: Positions::Learned,
            rms_norm: false,
            swiglu: false,
            bias: true,
            tied_head: true,
            dropout: 0.0,
            soft_cap: None,
            logit_soft_cap: None,
            qk_norm: None,
            qk_clip: None,
            watch_logits: false,
            norm_eps: 1e-5,
            loss: CrossEntropy::default(),
        }
    }

    /// Llama's form: rotary positions, RMSNorm, SwiGLU, grouped-query attention, no biases, a head
    /// of its own. The hidden width is 8/3 of the width, rounded up to a multiple of 16.
    pub fn llama(
        vocabulary: usize,
        context: usize,
        layers: usize,
        [heads, kv_heads]: [usize; 2],
        width: usize,
    ) -> Self {
        Self {
            kv_heads,
            hidden: (8 * width).div_ceil(3).next_multiple_of(16),
            positions: Positions::Rotary(10_000.0),
            rms_norm: true,
            swiglu: true,
            bias: false,
            tied_head: false,
            ..Self::gpt2(vocabulary, context, layers, heads, width)
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that does not.
    pub fn validate(&self) -> Result<()> {
        let fail = |setting, value: usize, range| {
            Err(Error::Setting { setting, value: value.to_string(), range })
        };
        for (setting, value) in [
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("width", self.width),
            ("hidden", self.hidden),
        ] {
            if value == 0 {
                return fail(setting, value, "at least 1");
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return fail("width", self.width, "a multiple of heads");
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail("kv_heads", self.kv_heads, "a divisor of heads");
        }
        let head_dim = self.width / self.heads;
        let step = if matches!(self.positions, Positions::Rotary(_)) { 8 } else { 4 };
        if !head_dim.is_multiple_of(step) || head_dim > 128 {
            let range = "a multiple of 4 (of 8 with rotary positions), at most 128";
            return fail("width / heads", head_dim, range);
        }
        if self.swiglu && !self.hidden.is_multiple_of(4) {
            return fail("hidden", self.hidden, "a multiple of 4 with SwiGLU");
        }
        if self.qk_norm.is_some() && self.qk_clip.is_some() {
            return Err(Error::Setting {
                setting: "qk_clip",
                value: "Some".into(),
                range: "None with qk_norm, which takes away what the clip changes",
            });
        }
        self.qk_clip.map_or(Ok(()), |clip| clip.validate())?;
        self.validate_reals()
    }
}

impl GptConfig {
    fn validate_reals(&self) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let rotary_base = match self.positions {
            Positions::Learned => 1.0,
            Positions::Rotary(base) => base,
        };
        let [soft_cap, logit_cap] = [self.soft_cap, self.logit_soft_cap].map(|c| c.unwrap_or(1.0));
        let CrossEntropy { label_smoothing, z_loss } = self.loss;
        let share = |x: f32| (0.0..1.0).contains(&x);
        for (setting, value, fits, range) in [
            ("dropout", self.dropout.to_string(), share(self.dropout), "in [0, 1)"),
            ("label_smoothing", label_smoothing.to_string(), share(label_smoothing), "in [0, 1)"),
            (
                "z_loss",
                z_loss.to_string(),
                z_loss >= 0.0 && z_loss.is_finite(),
                "finite, at least 0",
            ),
            ("norm_eps", self.norm_eps.to_string(), positive(self.norm_eps.into()), "above 0"),
            (
                "soft_cap",
                soft_cap.to_string(),
                positive(soft_cap.into()),
                "finite and above 0, or None",
            ),
            (
                "logit_soft_cap",
                logit_cap.to_string(),
                positive(logit_cap.into()),
                "finite and above 0, or None",
            ),
            ("rotary base", rotary_base.to_string(), positive(rotary_base), "finite and above 0"),
        ] {
            if !fits {
                return Err(Error::Setting { setting, value, range });
            }
        }
        Ok(())
    }
}

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
        let (width, eps) = (self.config.width, self.config.norm_eps);
        if self.config.rms_norm {
            Norm::Rms(RmsNorm { width, eps })
        } else {
            Norm::Layer(LayerNorm { width, eps })
        }
    }

    fn block(&self) -> Block {
        let config = &self.config;
        let (width, hidden, bias) = (config.width, config.hidden, config.bias);
        let (init, projection_init) = (Init::GPT2, Init::gpt2_residual(config.layers));
        let attention = CausalSelfAttention {
            width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            bias,
            rotary_base: match config.positions {
                Positions::Learned => None,
                Positions::Rotary(base) => Some(base),
            },
            qk_norm: config.qk_norm,
            norm_eps: config.norm_eps,
            soft_cap: config.soft_cap,
            qk_clip: config.qk_clip,
            watch: config.watch_logits,
            init,
            projection_init,
        };
        let feed_forward = if config.swiglu {
            FeedForward::SwiGlu(SwiGlu { width, hidden, bias, init, projection_init })
        } else {
            let activation = Activation::GeluTanh;
            FeedForward::Mlp(Mlp { width, hidden, activation, bias, init, projection_init })
        };
        let dropout = Dropout { probability: config.dropout };
        Block { norm: self.norm(), attention, feed_forward, dropout }
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

    /// tokens (.., time) to what the head reads, (.., time, width).
    #[track_caller]
    fn hidden(&self, graph: &mut Graph, tokens: Value) -> Value {
        let config = &self.config;
        let time = graph.shape(tokens).cols();
        assert!(time <= config.context, "{time} positions, the context is {}", config.context);
        let embedding = Embedding::new(config.vocabulary, config.width);
        let mut x = embedding.forward(graph, "token_embedding", tokens);
        if config.positions == Positions::Learned {
            let positions = Embedding::new(config.context, config.width);
            let table = positions.table(graph, "position_embedding");
            x = graph.module("position_embedding", |graph| graph.add_positions(x, table));
        }
        let x = Dropout { probability: config.dropout }.forward(graph, x);
        let mut residual = Residual { stream: x, branch: None };
        let block = self.block();
        for layer in 0..config.layers {
            residual = block.forward(graph, &format!("blocks.{layer}"), residual);
        }
        residual.norm(graph, &self.norm(), "norm")
    }

    #[track_caller]
    fn head(&self, graph: &mut Graph, x: Value) -> Value {
        let config = &self.config;
        let logits = if config.tied_head {
            let embedding = Embedding::new(config.vocabulary, config.width);
            let table = embedding.table(graph, "token_embedding");
            graph.module("head", |graph| graph.linear(x, table, None, Activation::None))
        } else {
            let head = Linear::new(config.width, config.vocabulary).bias(false).init(Init::GPT2);
            head.forward(graph, "head", x)
        };
        match config.logit_soft_cap {
            Some(cap) => graph.module("head", |graph| graph.soft_cap(logits, cap)),
            None => logits,
        }
    }

    /// The layers of this model in `graph` that [`GptConfig::qk_clip`] is to clip after each step.
    pub fn clipped(&self, graph: &Graph) -> Vec<ClippedAttention> {
        let attention = self.block().attention;
        let layer = |layer| attention.clipped(graph, &format!("blocks.{layer}.attention"));
        (0..self.config.layers).filter_map(layer).collect()
    }
}

/// A [`Gpt`] trained to predict the next token.
///
/// The loss is the mean over the targets of the step of cross-entropy (with label smoothing where it is set),
/// plus the z-loss where that is set: z mean(lse²), observed apart with
/// [`watch_logits`](GptConfig::watch_logits). Inputs are `tokens` and `targets`, both (batch, time); targets of
/// [`IGNORE`](crate::train::IGNORE) do not count.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageModel {
    /// The model.
    pub gpt: Gpt,
    /// Sequences in a microbatch.
    pub batch: usize,
    /// Positions in a sequence.
    pub time: usize,
}

impl Model for LanguageModel {
    fn build(&self, graph: &mut Graph) -> ModelOutput {
        let vocabulary = self.gpt.config.vocabulary;
        let tokens = graph.tokens("tokens", [self.batch, self.time], vocabulary);
        let targets = graph.tokens("targets", [self.batch, self.time], vocabulary);
        let prediction = self.gpt.logits(graph, tokens);
        let config = &self.gpt.config;
        if !config.watch_logits || graph.phase == Phase::Evaluate {
            let loss = |graph: &mut Graph| graph.cross_entropy(prediction, targets, config.loss);
            let loss = graph.module("loss", loss);
            return ModelOutput { loss, prediction };
        }
        let (loss, logits) = graph
            .module("loss", |graph| graph.watched_cross_entropy(prediction, targets, config.loss));
        graph.observe("max_logit", logits.max_logit);
        graph.observe("z_loss", logits.z_loss);
        ModelOutput { loss, prediction }
    }

    fn configuration(&self) -> String {
        let GptConfig { heads, kv_heads, positions, qk_norm, .. } = &self.gpt.config;
        format!("heads {heads}, kv_heads {kv_heads}, positions {positions:?}, qk_norm {qk_norm:?}")
    }
}
