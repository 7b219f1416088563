//! The modules of a model that may have an adapter, by the names that transformers has for them.

use std::ops::Range;

use crate::nn::{GptConfig, Positions};

/// A linear layer or embedding of transformers: all rows of a weight of ours, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// `model.layers.0.self_attn.q_proj`
    pub name: String,
    /// The block that it is in.
    pub layer: Option<usize>,
    /// The scope of our layer: `blocks.0.attention.qkv`.
    pub scope: String,
    /// What it is called among several with one weight: `q_proj`.
    pub part: Option<&'static str>,
    /// Its rows in the weight of our layer.
    pub rows: Range<usize>,
    /// Columns of the weight.
    pub inputs: usize,
    /// Whether it looks up rows instead.
    pub is_embedding: bool,
}

/// Rows of parts that lie one after the other.
fn ranges<const N: usize>(counts: [usize; N]) -> [Range<usize>; N] {
    let mut end = 0;
    counts.map(|count| {
        end += count;
        end - count..end
    })
}

/// What our layers are made of: names of theirs, our layer, parts with their rows, and inputs.
struct Layer {
    ours: &'static str,
    inputs: usize,
    parts: Vec<(&'static str, Range<usize>)>,
}

/// A layer that is one module.
fn whole(ours: &'static str, theirs: &'static str, [inputs, outputs]: [usize; 2]) -> Layer {
    Layer { ours, inputs, parts: vec![(theirs, 0..outputs)] }
}

impl GptConfig {
    /// Whether transformers would have this model as a GPT-2: then its modules have those names, and
    /// else the names of a Llama.
    fn has_names_of_gpt2(&self) -> bool {
        self.positions == Positions::Learned
    }

    fn adaptable_layers(&self) -> Vec<Layer> {
        let Self { width, hidden, heads, kv_heads, .. } = *self;
        let is_gpt2 = self.has_names_of_gpt2();
        let [queries, keys] = [heads, kv_heads].map(|heads| heads * self.head_dim());
        let qkv = if is_gpt2 {
            whole("attention.qkv", "attn.c_attn", [width, queries + 2 * keys])
        } else {
            let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            let parts = names.into_iter().zip(ranges([queries, keys, keys])).collect();
            Layer { ours: "attention.qkv", inputs: width, parts }
        };
        let projection = if is_gpt2 { "attn.c_proj" } else { "self_attn.o_proj" };
        let mut layers = vec![qkv, whole("attention.projection", projection, [queries, width])];
        if self.feed_forward.is_gated() {
            let names = ["mlp.gate_proj", "mlp.up_proj"];
            let parts = names.into_iter().zip(ranges([hidden, hidden])).collect();
            layers.push(Layer { ours: "mlp.gate_up", inputs: width, parts });
            layers.push(whole("mlp.down", "mlp.down_proj", [hidden, width]));
        } else {
            let [up, down] = match is_gpt2 {
                true => ["mlp.c_fc", "mlp.c_proj"],
                false => ["mlp.up_proj", "mlp.down_proj"],
            };
            layers.push(whole("mlp.up", up, [width, hidden]));
            layers.push(whole("mlp.down", down, [hidden, width]));
        }
        layers
    }

    /// The modules of one block.
    pub(super) fn modules_of_block(&self, layer: usize) -> Vec<Module> {
        let layers = if self.has_names_of_gpt2() { "transformer.h" } else { "model.layers" };
        let modules =
            self.adaptable_layers().into_iter().flat_map(|Layer { ours, inputs, parts }| {
                let is_joined = parts.len() > 1;
                parts.into_iter().map(move |(theirs, rows)| Module {
                    name: format!("{layers}.{layer}.{theirs}"),
                    layer: Some(layer),
                    scope: format!("blocks.{layer}.{ours}"),
                    part: theirs.rsplit('.').next().filter(|_| is_joined),
                    rows,
                    inputs,
                    is_embedding: false,
                })
            });
        modules.collect()
    }

    /// The embedding of tokens.
    pub(super) fn embedding_module(&self) -> Module {
        let is_gpt2 = self.has_names_of_gpt2();
        let name = if is_gpt2 { "transformer.wte" } else { "model.embed_tokens" };
        Module { is_embedding: true, ..self.vocabulary_module(name, "token_embedding") }
    }

    /// The head, whether or not its weight is the embedding's.
    pub(super) fn head_module(&self) -> Module {
        self.vocabulary_module("lm_head", "head")
    }

    fn vocabulary_module(&self, name: &str, scope: &str) -> Module {
        Module {
            name: name.to_owned(),
            layer: None,
            scope: scope.to_owned(),
            part: None,
            rows: 0..self.vocabulary,
            inputs: self.width,
            is_embedding: false,
        }
    }

    /// All of them.
    pub(super) fn adaptable_modules(&self) -> Vec<Module> {
        let blocks = (0..self.layers).flat_map(|layer| self.modules_of_block(layer));
        [self.embedding_module()].into_iter().chain(blocks).chain([self.head_module()]).collect()
    }
}
