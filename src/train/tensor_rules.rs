//! Which tensors are trained, and how each of them.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use super::{Model, TrainerBuilder};
use crate::error::{Error, Result};
use crate::graph::{Graph, ParameterSpec};
use crate::plan::ParameterLayout;
use crate::step::{TensorSettings, TensorState};

type Predicate = Rc<dyn Fn(&ParameterSpec) -> bool>;

/// What a builder was told of single tensors.
#[derive(Clone)]
pub(super) struct TensorRules {
    pub settings: Rc<dyn Fn(&ParameterSpec) -> TensorSettings>,
    pub frozen: Vec<Predicate>,
    /// Tensors and scopes.
    pub frozen_names: Vec<String>,
}

impl Default for TensorRules {
    fn default() -> Self {
        Self { settings: Rc::new(decay_matrices), frozen: Vec::new(), frozen_names: Vec::new() }
    }
}

impl fmt::Debug for TensorRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorRules")
            .field("frozen_names", &self.frozen_names)
            .finish_non_exhaustive()
    }
}

/// Weight decay on matrices only: not on biases and norm weights, which have one dimension.
fn decay_matrices(spec: &ParameterSpec) -> TensorSettings {
    let weight_decay = if spec.shape.dims.len() > 1 { 1.0 } else { 0.0 };
    TensorSettings { weight_decay, learning_rate: 1.0 }
}

/// Whether `name` is this tensor's, or that of a scope it lies in.
fn is_named(spec: &ParameterSpec, name: &str) -> bool {
    let rest = spec.name.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl<M: Model> TrainerBuilder<M> {
    /// Weight decay and learning-rate factor of each tensor. The default decays only tensors with
    /// two or more dimensions. A learning-rate factor of 0 [freezes](Self::freeze) the tensor.
    #[must_use]
    pub fn tensor_settings(
        mut self,
        settings: impl Fn(&ParameterSpec) -> TensorSettings + 'static,
    ) -> Self {
        self.settings.rules.settings = Rc::new(settings);
        self
    }

    /// Freezes the tensors that `is_frozen` chooses, beside those that are frozen already: by an
    /// earlier call, by the model ([`Graph::frozen`]), or by a learning-rate factor of 0.
    ///
    /// A frozen tensor keeps every bit. It has no gradient, no moments and no memory for either, is
    /// not in the gradient norm, and no clip, weight decay or policy knows of it; the backward pass
    /// ends where nothing below is trained. It is read and written by name as any other, and part of
    /// checkpoints. Running statistics of BatchNorm are no parameters: they go on moving.
    ///
    /// [`Trainer::report`](super::Trainer::report) counts what is frozen.
    ///
    /// ```
    /// # use evenkeel::train::{Model, TrainerBuilder};
    /// # fn last_block_only<M: Model>(builder: TrainerBuilder<M>) -> TrainerBuilder<M> {
    /// builder.freeze(|spec| !spec.name.starts_with("blocks.11."))
    /// # }
    /// ```
    #[must_use]
    pub fn freeze(mut self, is_frozen: impl Fn(&ParameterSpec) -> bool + 'static) -> Self {
        self.settings.rules.frozen.push(Rc::new(is_frozen));
        self
    }

    /// [Freezes](Self::freeze) the tensor of this name, or all tensors of the scope with this name:
    /// `"blocks.0"` stands for `blocks.0.attention.qkv.weight` and its like, and not for
    /// `blocks.01` or `blocks.0x`.
    ///
    /// [`build`](Self::build) fails with [`Error::UnknownName`] where nothing has the name.
    #[must_use]
    pub fn freeze_named(mut self, name: impl Into<String>) -> Self {
        self.settings.rules.frozen_names.push(name.into());
        self
    }
}

impl TensorRules {
    /// Whether the tensor is to be frozen.
    pub fn freeze(&self, spec: &ParameterSpec) -> bool {
        self.frozen.iter().any(|is_frozen| is_frozen(spec))
            || self.frozen_names.iter().any(|name| is_named(spec, name))
            || (self.settings)(spec).learning_rate == 0.0
    }

    /// The rows of these tensors in the tensor table.
    pub fn states(&self, specs: &[ParameterSpec]) -> Result<Vec<TensorState>> {
        let state = |spec: &ParameterSpec| {
            let settings = (self.settings)(spec);
            if settings.learning_rate.is_finite() && settings.weight_decay.is_finite() {
                return Ok(TensorState::from(settings));
            }
            Err(Error::Setting {
                setting: "tensor_settings",
                value: format!("{settings:?} for {}", spec.name),
                range: "finite",
            })
        };
        specs.iter().map(state).collect()
    }

    /// Fails for a name that no tensor of the graph or among the given ones answers to.
    pub fn check_names(&self, graph: &Graph, given: Option<&ParameterLayout>) -> Result<()> {
        let specs = given.map_or(graph.parameters(), ParameterLayout::specs);
        let unknown = |name: &&String| !specs.iter().any(|spec| is_named(spec, name));
        match self.frozen_names.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(Error::UnknownName {
                kind: "parameter or scope",
                name: name.clone(),
                known: specs.iter().map(|spec| &spec.name[..]).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Which of given parameters are trained: those that are in the graph, which obeys these rules;
    /// where they are more than the graph uses, by these rules.
    pub fn are_trained<'a>(&'a self, graph: &'a Graph) -> impl Fn(&ParameterSpec) -> bool + 'a {
        let specs = graph.parameters().iter();
        let in_graph: HashMap<_, _> = specs.map(|s| (&s.name, s.requires_grad)).collect();
        move |spec: &ParameterSpec| match in_graph.get(&spec.name) {
            Some(&requires_grad) => requires_grad,
            None => spec.requires_grad && !self.freeze(spec),
        }
    }
}

/// Fails for a differentiated graph in which everything is frozen that the loss depends on.
pub(super) fn check_gradients(graph: &Graph) -> Result<()> {
    let frozen = graph.parameters().iter().filter(|spec| !spec.requires_grad).count();
    if frozen == 0 || !graph.gradients().is_empty() {
        return Ok(());
    }
    Err(Error::Setting {
        setting: "the number of trained tensors that the loss depends on",
        value: format!("0 ({frozen} of {} are frozen)", graph.parameters().len()),
        range: "at least 1: freeze fewer, or use a Predictor where nothing is to be trained",
    })
}
