//! Low-rank adapters: a few trained numbers beside the weights of a model that stays as it is.

mod layer;
mod modules;
mod pattern;

use std::ops::Range;

pub use layer::{AdaptedPart, LinearAdapter};
use modules::Module;
use pattern::Pattern;

use crate::error::{Error, Result};
use crate::nn::GptConfig;

/// Which modules have an adapter, by the names that transformers has for them: those of a Llama
/// (`model.layers.0.self_attn.q_proj`, `k_proj`, `v_proj`, `o_proj`, `mlp.gate_proj`, `up_proj`,
/// `down_proj`, `model.embed_tokens`, `lm_head`), and in models with learned positions those of a
/// GPT-2 (`transformer.h.0.attn.c_attn`, `c_proj`, `mlp.c_fc`, `c_proj`, `transformer.wte`,
/// `lm_head`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Modules with one of these names, or whose name ends with a dot and one of them.
    Named(Vec<String>),
    /// Modules whose whole name matches a regular expression.
    Pattern(String),
    /// All linear layers but the head.
    AllLinear,
}

impl Targets {
    /// Modules with these names.
    pub fn named<const N: usize>(names: [&str; N]) -> Self {
        Self::Named(names.map(str::to_owned).to_vec())
    }
}

fn is_named(module: &Module, name: &str) -> bool {
    let front = module.name.strip_suffix(name);
    front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// LoRA (Hu et al. 2021, arXiv 2106.09685): the frozen weight W of a module, (out, in), becomes
/// W + s B A with A (rank, in) and B (out, rank), which alone are trained, and s = alpha / rank. A
/// starts as PyTorch's linear layers do, B at 0, so that the model begins as it was; of an embedding A
/// starts at 0 and B as N(0, 1). Names, targets and initial values are those of PEFT.
///
/// In a [`GptConfig`] it freezes all that was there before: see
/// [`Graph::frozen_base`](crate::graph::Graph::frozen_base). Parameters of an adapter stand beside
/// what they adapt: `blocks.0.mlp.down.lora_A` and `.lora_B`; where one weight of ours is that of
/// several modules, `blocks.0.attention.qkv.q_proj.lora_B` and its like, and one `lora_A`, whose rows
/// are those of all of them (each its own where the rank is no multiple of 4).
///
/// | variant | |
/// |---|---|
/// | [`rs_lora`](Self::rs_lora) | s = alpha / sqrt(rank), so that large ranks learn as fast (Kalajdzievski 2023, arXiv 2312.03732) |
/// | [`dora`](Self::dora) | row o of W + s B A is scaled to the trained magnitude m_o, which starts as the norm of that of W: `lora_magnitude` (Liu et al. 2024, arXiv 2402.09353). The norm it is divided by counts as a constant |
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rows of A: at least 1. One product for several modules wants a multiple of 4.
    pub rank: usize,
    /// What the scale is made of.
    pub alpha: f64,
    /// Whether the scale is alpha / sqrt(rank) instead of alpha / rank.
    pub rs_lora: bool,
    /// Whether magnitudes are trained apart from directions.
    pub dora: bool,
    /// Probability of dropout in front of A. Modules that read the same share a mask. With `dora` it
    /// takes a second product with W.
    pub dropout: f32,
    /// Which modules have an adapter.
    pub targets: Targets,
    /// Which of them have none after all.
    pub exclude: Option<Targets>,
    /// Blocks whose modules have one; `None` for all. Only with named targets, as in PEFT.
    pub layers: Option<Vec<usize>>,
    /// What may stand in front of a block's number, as regular expressions; empty for anything.
    pub layers_pattern: Vec<String>,
}

/// A module with an adapter, and the parameters that it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Name in transformers: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// The parameter whose rows its weight is.
    pub weight: String,
    /// Those rows.
    pub rows: Range<usize>,
    /// Columns of its weight.
    pub inputs: usize,
    /// Whether it is an embedding: then the parameter of A holds its transpose, (rows, rank).
    pub is_embedding: bool,
    /// The parameter whose rows A is.
    pub a: String,
    /// Those rows.
    pub a_rows: Range<usize>,
    /// The parameter that B is.
    pub b: String,
    /// The parameter that its magnitudes are.
    pub magnitude: Option<String>,
}

/// Whether a parameter with this name is a part of an adapter.
pub fn is_adapter(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.starts_with("lora_"))
}

impl Lora {
    /// LoRA without dropout.
    pub fn new(rank: usize, alpha: f64, targets: Targets) -> Self {
        Self {
            rank,
            alpha,
            rs_lora: false,
            dora: false,
            dropout: 0.0,
            targets,
            exclude: None,
            layers: None,
            layers_pattern: Vec::new(),
        }
    }

    /// s: alpha / rank, or alpha / sqrt(rank).
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rs_lora { rank.sqrt() } else { rank }
    }

    fn chooses(&self, targets: &Targets, module: &Module) -> bool {
        match targets {
            Targets::Named(names) => names.iter().any(|name| is_named(module, name)),
            Targets::Pattern(text) => {
                Pattern::new(text).is_some_and(|pattern| pattern.matches(&module.name))
            }
            Targets::AllLinear => !module.is_embedding && module.layer.is_some(),
        }
    }

    /// Whether the module has an adapter.
    fn adapts(&self, module: &Module) -> bool {
        if self.exclude.as_ref().is_some_and(|exclude| self.chooses(exclude, module)) {
            return false;
        }
        self.chooses(&self.targets, module) && self.is_in_layers(module)
    }

    fn is_in_layers(&self, module: &Module) -> bool {
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else {
            return true;
        };
        let Some(layer) = module.layer.filter(|layer| layers.contains(layer)) else { return false };
        let number = format!(".{layer}.");
        let front = module.name.split(&number).next().unwrap_or_default();
        let fits = |pattern: &String| {
            let whole = Pattern::new(&format!("(?:.*\\.)?(?:{pattern})"));
            whole.is_some_and(|pattern| pattern.matches(front))
        };
        self.layers_pattern.is_empty() || self.layers_pattern.iter().any(fits)
    }

    /// The adapter of one of our layers; `None` where it has none. `modules` has all that are made of
    /// it.
    fn of_layer(&self, modules: &[Module], scope: &str) -> Option<LinearAdapter> {
        let adapted = modules.iter().filter(|module| module.scope == scope && self.adapts(module));
        let parts: Vec<_> = adapted
            .map(|module| AdaptedPart { name: module.part, rows: module.rows.clone() })
            .collect();
        let Self { rank, dora, dropout, .. } = *self;
        let scale = self.scale() as f32;
        (!parts.is_empty()).then_some(LinearAdapter { rank, scale, dora, dropout, parts })
    }

    /// All modules of a model that have an adapter, in its order.
    pub fn modules(&self, config: &GptConfig) -> Vec<AdaptedModule> {
        let all = config.adaptable_modules();
        let adapted: Vec<_> = all.into_iter().filter(|module| self.adapts(module)).collect();
        let of_one_weight =
            adapted.chunk_by(|one, other| one.scope == other.scope).map(|modules| {
                let is_joined = layer::is_joined(self.rank, modules.len());
                modules.iter().enumerate().map(move |(index, module)| {
                    self.adapted(config, module, if is_joined { index } else { 0 }, is_joined)
                })
            });
        of_one_weight.flatten().collect()
    }

    /// The `index`-th of those that share an A, if it is joined.
    fn adapted(
        &self,
        config: &GptConfig,
        module: &Module,
        index: usize,
        is_joined: bool,
    ) -> AdaptedModule {
        let Module { name, scope, part, rows, inputs, is_embedding, .. } = module.clone();
        let own = part.map_or(scope.clone(), |part| format!("{scope}.{part}"));
        let is_tied_head = config.tied_head && scope == "head";
        let weight = if is_tied_head { "token_embedding" } else { scope.as_str() };
        let first = index * self.rank;
        AdaptedModule {
            name,
            weight: format!("{weight}.weight"),
            a: format!("{}.lora_A", if is_joined { &scope } else { &own }),
            a_rows: if is_embedding { rows.clone() } else { first..first + self.rank },
            b: format!("{own}.lora_B"),
            magnitude: self.dora.then(|| format!("{own}.lora_magnitude")),
            rows,
            inputs,
            is_embedding,
        }
    }

    /// Checks that the settings make sense, and that the model has what they ask for.
    ///
    /// # Errors
    /// [`Error::Setting`] names the first that does not.
    pub fn validate(&self, config: &GptConfig) -> Result<()> {
        let check = |setting, value: String, fits: bool, range| {
            if fits { Ok(()) } else { Err(Error::Setting { setting, value, range }) }
        };
        let Self { rank, alpha, dropout, .. } = *self;
        check("lora rank", rank.to_string(), rank > 0, "at least 1")?;
        let positive = alpha > 0.0 && alpha.is_finite();
        check("lora alpha", alpha.to_string(), positive, "finite and above 0")?;
        let share = (0.0..1.0).contains(&dropout);
        check("lora dropout", dropout.to_string(), share, "in [0, 1)")?;
        let all = config.adaptable_modules();
        for targets in [&self.targets].into_iter().chain(&self.exclude) {
            validate_targets(targets, &all)?;
        }
        let by_name = matches!(self.targets, Targets::Named(_));
        let layers = format!("{:?}", self.layers);
        let range = "None with targets that are not named one by one";
        check("lora layers", layers.clone(), self.layers.is_none() || by_name, range)?;
        let known = |&layer: &usize| layer < config.layers;
        let all_known = self.layers.iter().flatten().all(known);
        check("lora layers", layers, all_known, "numbers of the model's blocks")?;
        for pattern in &self.layers_pattern {
            let fits = Pattern::new(pattern).is_some() && self.layers.is_some();
            let range = "a regular expression, with layers";
            check("lora layers_pattern", pattern.clone(), fits, range)?;
        }
        let mut adapted = all.iter().filter(|module| self.adapts(module)).peekable();
        let targets = format!("{:?}", self.targets);
        check("lora targets", targets, adapted.peek().is_some(), "some module of the model")?;
        let table = adapted.find(|module| self.dora && module.is_embedding);
        let name = table.map_or(String::new(), |module| module.name.clone());
        check("lora targets", name, table.is_none(), "no embedding with DoRA")
    }
}

/// Fails for a name that no module has, and for what is no pattern.
fn validate_targets(targets: &Targets, all: &[Module]) -> Result<()> {
    let fail = |value: &str, range| {
        Err(Error::Setting { setting: "lora targets", value: value.to_owned(), range })
    };
    match targets {
        Targets::AllLinear => Ok(()),
        Targets::Pattern(text) if Pattern::new(text).is_some() => Ok(()),
        Targets::Pattern(text) => fail(text, "a regular expression of what is known here"),
        Targets::Named(names) => {
            let unknown = |name: &&String| !all.iter().any(|module| is_named(module, name));
            match names.iter().find(unknown) {
                None => Ok(()),
                Some(name) => fail(name, "the names of modules, or what follows a dot in them"),
            }
        }
    }
}

impl GptConfig {
    /// The adapter of a layer in a block: of `attention.qkv`, `attention.projection`, `mlp.up` or
    /// `mlp.gate_up`, or `mlp.down`.
    pub(super) fn adapter_of(&self, block: usize, layer: &str) -> Option<LinearAdapter> {
        let lora = self.lora.as_ref()?;
        lora.of_layer(&self.modules_of_block(block), &format!("blocks.{block}.{layer}"))
    }

    /// The adapter of the embedding.
    pub(super) fn embedding_adapter(&self) -> Option<LinearAdapter> {
        self.lora.as_ref()?.of_layer(&[self.embedding_module()], "token_embedding")
    }

    /// The adapter of the head.
    pub(super) fn head_adapter(&self) -> Option<LinearAdapter> {
        self.lora.as_ref()?.of_layer(&[self.head_module()], "head")
    }
}
