//! What a [`Gpt`](super::Gpt) is made of: sizes and variants, from GPT-2 to Gemma 3.

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::graph::ops::{CrossEntropy, LinearCrossEntropy};
use crate::kernel::BlockFormat;
use crate::nn::{Lora, QkClip, QkNorm, Rotary};

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned table, added to the token embedding (GPT-2).
    Learned,
    /// Rotation of queries and keys.
    Rotary(Rotary),
}

/// What the attention of a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A position and all before it.
    Full,
    /// A position and those before it, [`GptConfig::window`] in all.
    Sliding,
}

impl LayerKind {
    /// Every `period`-th of so many layers full, the others sliding: Gemma 2 with a period of 2,
    /// Gemma 3 with 6.
    pub fn every(period: usize, layers: usize) -> Vec<Self> {
        let kind = |layer: usize| {
            if (layer + 1).is_multiple_of(period) { Self::Full } else { Self::Sliding }
        };
        (0..layers).map(kind).collect()
    }
}

/// The feed-forward part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// down(gelu(up(x))), with the exact GELU.
    Gelu,
    /// The same with the approximation of GELU by tanh (GPT-2).
    GeluTanh,
    /// down(silu(gate(x)) * up(x)) (Llama).
    SwiGlu,
    /// down(gelu(gate(x)) * up(x)), with the approximation of GELU by tanh (Gemma).
    GeGlu,
}

impl FeedForwardKind {
    /// Whether a gate multiplies what goes down.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::SwiGlu | Self::GeGlu)
    }
}

/// Shape and variants of a [`Gpt`](super::Gpt).
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
    /// Columns of a head; `None` for width / heads.
    pub head_dim: Option<usize>,
    /// Columns of the residual stream.
    pub width: usize,
    /// Columns inside the feed-forward part.
    pub hidden: usize,
    /// Learned or rotary.
    pub positions: Positions,
    /// The rotation in sliding layers; `None` for that of `positions` (Gemma 3 has another).
    pub window_rotary: Option<Rotary>,
    /// Positions that a sliding layer sees, the present one among them. `None` where all see all.
    pub window: Option<usize>,
    /// What each layer sees, one entry a layer. Empty: all layers slide where there is a `window`
    /// (Mistral), and are full where there is none.
    pub layer_kinds: Vec<LayerKind>,
    /// RMSNorm instead of LayerNorm.
    pub rms_norm: bool,
    /// Added to the weights of RMSNorms, those of `qk_norm` too: 1 for weights that are stored as
    /// what they differ from 1 by (Gemma), else 0.
    pub norm_weight_offset: f32,
    /// Norms behind attention and feed-forward too, in front of the residual addition (Gemma 2
    /// and 3): `post_attention_norm` and `post_mlp_norm`.
    pub post_norms: bool,
    /// What the feed-forward part computes.
    pub feed_forward: FeedForwardKind,
    /// Whether linear layers have a bias.
    pub bias: bool,
    /// Whether the projection to queries, keys and values has a bias even where `bias` is not set
    /// (Qwen 2).
    pub qkv_bias: bool,
    /// Whether the head shares the token embedding's table.
    pub tied_head: bool,
    /// Factor on the token embedding; `None` for 1. Gemma's is sqrt(width), rounded to the type
    /// that the weights are stored in.
    pub embedding_scale: Option<f32>,
    /// Probability of dropout on the embedding and on every residual branch.
    pub dropout: f32,
    /// Factor on q·k; `None` for 1 / sqrt(head_dim) (Gemma: `query_pre_attn_scalar`^-0.5).
    pub attention_scale: Option<f32>,
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
    /// The most bytes that the logits of a microbatch may take: 512 MiB by default, and never more
    /// than a binding of the device. Where they would take more, those of some positions exist at a
    /// time, as in [`LinearCrossEntropy`]; but not beside an adapter of the head.
    pub logits_budget: u64,
    /// Whether the backward pass computes the activations of each block again instead of keeping
    /// them: [`Graph::recompute`]. A third more arithmetic, and of each block two tensors (batch,
    /// time, width) in the place of all its activations. No bit of a training changes.
    pub recompute: bool,
    /// Low-rank adapters. With them all else is frozen: no gradients, no moments, not in the norm.
    pub lora: Option<Lora>,
    /// The blocks that the weights of linear layers, the table of tokens and the head lie in; `None`
    /// for quads of the storage of weights. They take 8.5, 4.5 or 5 bits each and are not trained:
    /// with [`lora`](Self::lora) that is QLoRA, and without it the model can predict and generate, and
    /// be trained only where all of them are [frozen](crate::train::TrainerBuilder::freeze). Widths
    /// must be multiples of 32. Norms, biases and learned positions stay as they are.
    pub base_format: Option<BlockFormat>,
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
            head_dim: None,
            width,
            hidden: width.saturating_mul(4),
            positions: Positions::Learned,
            window_rotary: None,
            window: None,
            layer_kinds: Vec::new(),
            rms_norm: false,
            norm_weight_offset: 0.0,
            post_norms: false,
            feed_forward: FeedForwardKind::GeluTanh,
            bias: true,
            qkv_bias: false,
            tied_head: true,
            embedding_scale: None,
            dropout: 0.0,
            attention_scale: None,
            soft_cap: None,
            logit_soft_cap: None,
            qk_norm: None,
            qk_clip: None,
            watch_logits: false,
            norm_eps: 1e-5,
            loss: CrossEntropy::default(),
            logits_budget: 512 << 20,
            recompute: false,
            lora: None,
            base_format: None,
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
            hidden: width.saturating_mul(8).div_ceil(3).next_multiple_of(16),
            positions: Positions::Rotary(Rotary::new(10_000.0)),
            rms_norm: true,
            feed_forward: FeedForwardKind::SwiGlu,
            bias: false,
            tied_head: false,
            ..Self::gpt2(vocabulary, context, layers, heads, width)
        }
    }

    /// Columns of a head: those of the field, or width / heads.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or_else(|| self.width / self.heads)
    }

    /// What a layer sees.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        let of_all = if self.window.is_some() { LayerKind::Sliding } else { LayerKind::Full };
        self.layer_kinds.get(layer).copied().unwrap_or(of_all)
    }

    /// Positions that a layer sees, itself among them; `None` for all.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.layer_kind(layer) == LayerKind::Sliding)
    }

    /// The rotation of a layer's queries and keys; `None` with learned positions.
    pub fn rotary_of(&self, layer: usize) -> Option<Rotary> {
        let Positions::Rotary(rotary) = self.positions else { return None };
        let sliding = self.layer_kind(layer) == LayerKind::Sliding;
        Some(self.window_rotary.filter(|_| sliding).unwrap_or(rotary))
    }

    /// How the loss of so many positions is computed where their logits are over the budget.
    pub(super) fn chunked_loss(&self, graph: &Graph, rows: usize) -> Option<LinearCrossEntropy> {
        if self.head_adapter().is_some() {
            return None;
        }
        let most = self.logits_budget.min(graph.largest_binding());
        let row_bytes = self.vocabulary.div_ceil(4) as u64 * graph.precision().quad_bytes();
        LinearCrossEntropy::within(most, rows, row_bytes, self.loss, self.logit_soft_cap)
    }

    /// What names and shapes of tensors do not show, in a checkpoint's words.
    pub(super) fn words(&self) -> String {
        let Self { heads, kv_heads, qk_norm, .. } = self;
        let positions = match self.positions {
            Positions::Learned => "Learned".to_owned(),
            Positions::Rotary(rotary) => rotary.words(),
        };
        let mut words = format!(
            "heads {heads}, kv_heads {kv_heads}, positions {positions}, qk_norm {qk_norm:?}"
        );
        let mut say = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([", ", name, " ", value.as_str()]);
            }
        };
        say("window", self.window.map(|window| window.to_string()));
        let kinds = &self.layer_kinds;
        say("layer_kinds", (!kinds.is_empty()).then(|| format!("{kinds:?}")));
        say("window_rotary", self.window_rotary.map(|rotary| rotary.words()));
        say("attention_scale", self.attention_scale.map(|scale| scale.to_string()));
        say("embedding_scale", self.embedding_scale.map(|scale| scale.to_string()));
        let offset = self.norm_weight_offset;
        say("norm_weight_offset", (offset != 0.0).then(|| offset.to_string()));
        say("base_format", self.base_format.map(|format| format.to_string()));
        say("lora scale", self.lora.as_ref().map(|lora| lora.scale().to_string()));
        // The others differ from each other in the shapes of their tensors.
        let unusual = matches!(self.feed_forward, FeedForwardKind::Gelu | FeedForwardKind::GeGlu);
        say("feed_forward", unusual.then(|| format!("{:?}", self.feed_forward)));
        words
    }
}

pub(super) type Check = (&'static str, String, bool, &'static str);

pub(super) fn check(checks: impl IntoIterator<Item = Check>) -> Result<()> {
    match checks.into_iter().find(|&(_, _, fits, _)| !fits) {
        Some((setting, value, _, range)) => Err(Error::Setting { setting, value, range }),
        None => Ok(()),
    }
}

impl GptConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that does not.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("width", self.width),
            ("hidden", self.hidden),
        ];
        check(sizes.map(|(name, size)| (name, size.to_string(), size > 0, "at least 1")))?;
        self.validate_heads()?;
        let whole_quads = !self.feed_forward.is_gated() || self.hidden.is_multiple_of(4);
        let range = "a multiple of 4 with SwiGLU or GeGLU";
        check([("hidden", self.hidden.to_string(), whole_quads, range)])?;
        self.validate_layers()?;
        self.validate_blocks()?;
        self.qk_clip.map_or(Ok(()), |clip| clip.validate())?;
        self.validate_reals()?;
        let Some(lora) = &self.lora else { return Ok(()) };
        let range = "None with lora, which freezes what the clip changes";
        check([("qk_clip", "Some".into(), self.qk_clip.is_none(), range)])?;
        lora.validate(self)
    }

    fn validate_heads(&self) -> Result<()> {
        let divides = self.head_dim.is_some() || self.width.is_multiple_of(self.heads);
        let grouped = self.heads.is_multiple_of(self.kv_heads);
        check([
            ("width", self.width.to_string(), divides, "a multiple of heads"),
            ("kv_heads", self.kv_heads.to_string(), grouped, "a divisor of heads"),
        ])?;
        let head_dim = self.head_dim();
        let step = if matches!(self.positions, Positions::Rotary(_)) { 8 } else { 4 };
        let fits = head_dim > 0 && head_dim.is_multiple_of(step) && head_dim <= 256;
        let name = if self.head_dim.is_some() { "head_dim" } else { "width / heads" };
        let range = "a multiple of 4 (of 8 with rotary positions), at most 256";
        let clip_or_norm = self.qk_norm.is_none() || self.qk_clip.is_none();
        check([
            (name, head_dim.to_string(), fits, range),
            (
                "qk_clip",
                "Some".into(),
                clip_or_norm,
                "None with qk_norm, which takes away what the clip changes",
            ),
        ])
    }

    fn validate_layers(&self) -> Result<()> {
        let kinds = self.layer_kinds.len();
        check([(
            "layer_kinds",
            format!("a list of {kinds}"),
            kinds == 0 || kinds == self.layers,
            "empty or one for each layer",
        )])?;
        let slides = (0..self.layers).any(|layer| self.layer_kind(layer) == LayerKind::Sliding);
        let window = format!("{:?}", self.window);
        let missing = "some number of positions where a layer slides";
        let spare = "None where no layer slides";
        check([
            ("window", window.clone(), !slides || self.window.is_some(), missing),
            ("window", window.clone(), slides || self.window.is_none(), spare),
            ("window", window, self.window != Some(0), "at least 1 position, or None"),
        ])?;
        let Some(rotary) = self.window_rotary else { return Ok(()) };
        let is_rotary = matches!(self.positions, Positions::Rotary(_));
        let range = "None without rotary positions and a layer that slides";
        check([("window_rotary", rotary.words(), slides && is_rotary, range)])?;
        rotary.validate_as([
            "window_rotary base",
            "window_rotary factor",
            "window_rotary low_freq_factor",
            "window_rotary high_freq_factor",
            "window_rotary original_context",
        ])
    }

    fn validate_reals(&self) -> Result<()> {
        let share = |name, x: f32| (name, x.to_string(), (0.0..1.0).contains(&x), "in [0, 1)");
        let optional = |name, x: Option<f32>| {
            let x = x.unwrap_or(1.0);
            (name, x.to_string(), x > 0.0 && x.is_finite(), "finite and above 0, or None")
        };
        let CrossEntropy { label_smoothing, z_loss } = self.loss;
        let (eps, offset) = (self.norm_eps, self.norm_weight_offset);
        let z_fits = z_loss >= 0.0 && z_loss.is_finite();
        let offset_fits = offset == 0.0 || (offset == 1.0 && self.rms_norm);
        check([
            share("dropout", self.dropout),
            share("label_smoothing", label_smoothing),
            ("z_loss", z_loss.to_string(), z_fits, "finite, at least 0"),
            ("norm_eps", eps.to_string(), eps > 0.0 && eps.is_finite(), "above 0"),
            ("norm_weight_offset", offset.to_string(), offset_fits, "0, or 1 with rms_norm"),
            optional("soft_cap", self.soft_cap),
            optional("logit_soft_cap", self.logit_soft_cap),
            optional("attention_scale", self.attention_scale),
            optional("embedding_scale", self.embedding_scale),
        ])?;
        match self.positions {
            Positions::Learned => Ok(()),
            Positions::Rotary(rotary) => rotary.validate(),
        }
    }
}
