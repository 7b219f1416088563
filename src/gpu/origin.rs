//! What a dispatch is part of.

/// The part of a step that a dispatch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What comes before the first forward pass: copies of weights, counts over all microbatches.
    Prologue,
    /// The forward pass.
    Forward,
    /// The backward pass.
    Backward,
    /// What follows the gradients: norm, policies, verdict, optimizer, telemetry.
    Update,
}

impl Stage {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prologue => "prologue",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Update => "update",
        }
    }
}

/// What a dispatch is part of, for reports. Those of one operation share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The [module](crate::graph::Graph::module) that the operation was made in:
    /// `blocks.0.attention`. What an operation's gradient takes is part of its module too. Empty
    /// outside all modules.
    pub module: String,
    /// The operation: `blocks.0.attention.attention`; those of the backward pass have the label of
    /// the operation they differentiate, then `gradient` and their own name.
    pub label: String,
    /// The part of the step.
    pub stage: Stage,
}

impl Origin {
    /// Of a part of the step that no module of the model has.
    pub fn of_step(name: &str, stage: Stage) -> Self {
        Self { module: name.to_owned(), label: name.to_owned(), stage }
    }
}
