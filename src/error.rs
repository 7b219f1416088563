//! The one error type. Every variant carries what was wrong and says what to do about it.
//!
//! Whatever depends on the environment or on data (adapters, memory, files, batches) is a
//! `Result`; a shape mistake while a graph is being built is a panic that shows the shapes.

use std::path::PathBuf;

/// What can go wrong outside the program text: the machine, its limits, and the data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter answered. Install a driver, or choose another backend.
    #[error(
        "no GPU adapter found ({reason}); install a Vulkan, Metal or DX12 driver (on Linux \
         without a GPU a software driver serves: mesa-vulkan-drivers), or set WGPU_BACKEND"
    )]
    NoAdapter {
        /// What the search for an adapter reported.
        reason: String,
    },

    /// The adapter was found but refused to give a device.
    #[error("adapter {adapter:?} gave no device: {reason}")]
    NoDevice {
        /// Name of the adapter.
        adapter: String,
        /// What the driver reported.
        reason: String,
    },

    /// Something was asked for that cannot be done in this combination.
    #[error("{what} is not supported: {instead}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        instead: String,
    },

    /// A limit of the device is too small for what was asked.
    #[error("{what} needs {needed} of {limit}, this device allows {available}; {advice}")]
    Limit {
        /// What ran into the limit.
        what: String,
        /// Name of the limit, as WebGPU spells it.
        limit: &'static str,
        /// What is needed, in the limit's unit.
        needed: u64,
        /// What the device allows, in the limit's unit.
        available: u64,
        /// What would fit.
        advice: String,
    },

    /// The device could not allocate the memory a plan or a parameter set needs.
    #[error("the device is out of memory: {what} needs {bytes} bytes; {advice}")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Bytes asked for.
        bytes: u64,
        /// What would make it fit.
        advice: String,
    },

    /// The device is gone: driver reset, adapter removed, or a watchdog ended a long submit.
    #[error(
        "the GPU device was lost ({reason}); make a new Gpu, and go on from the last host snapshot \
         with Trainer::rebuild, or from a checkpoint"
    )]
    DeviceLost {
        /// What the driver reported.
        reason: String,
    },

    /// The device is gone, and no other one was to be had, or those that were got lost too.
    #[error("the GPU device was lost and not regained: {reason}")]
    NotRegained {
        /// What was tried, and how to go on.
        reason: String,
    },

    /// An input of a step has the wrong number of elements.
    #[error("input {name:?} has {actual} elements, the plan was built for {expected} {shape}")]
    InputSize {
        /// Name of the input.
        name: String,
        /// Elements the plan expects.
        expected: usize,
        /// Elements given.
        actual: usize,
        /// The shape the plan expects, for display.
        shape: String,
    },

    /// A name that is not there: an input, a parameter, a state.
    #[error("there is no {kind} named {name:?}; known: {known}")]
    UnknownName {
        /// `"input"`, `"parameter"`, ...
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },

    /// An input holds the wrong kind of element.
    #[error("input {name:?} holds {actual}, the plan expects {expected}")]
    InputType {
        /// Name of the input.
        name: String,
        /// What the plan expects.
        expected: &'static str,
        /// What was given.
        actual: &'static str,
    },

    /// A token id lies outside the vocabulary.
    #[error("input {name:?} holds {token} at position {position}; ids must be below {bound}")]
    TokenOutOfRange {
        /// Name of the input.
        name: String,
        /// Index into the input.
        position: usize,
        /// The offending id.
        token: u32,
        /// The first id that is not allowed.
        bound: u32,
    },

    /// A value that must be finite is NaN or Inf.
    #[error("{what} holds {value} at index {index}; {advice}")]
    NonFinite {
        /// Which tensor or setting.
        what: String,
        /// Index of the first offender.
        index: usize,
        /// The offending value.
        value: f32,
        /// What to do about it.
        advice: String,
    },

    /// A step's gradients were not finite and the caller asked to stop at that.
    #[error(
        "step {step}: {count} gradient elements are NaN or Inf; the step changed nothing. \
         Lower the learning rate, clip harder, or look for the first bad tensor"
    )]
    NonFiniteGradient {
        /// The step that was skipped.
        step: u64,
        /// How many gradient elements were not finite.
        count: u64,
    },

    /// A step's loss was not finite, its gradients were, and the caller asked to stop at that.
    #[error(
        "step {step}: the loss is {loss}; the step changed nothing. Look for the first value that is \
         not finite (Trainer::diagnose), and check the targets"
    )]
    NonFiniteLoss {
        /// The step that was skipped.
        step: u64,
        /// The loss.
        loss: f32,
    },

    /// A step would have made a state NaN or Inf, such as a running variance, while loss and
    /// gradients were finite, and the caller asked to stop at that.
    #[error(
        "step {step}: new running statistics are NaN or Inf; the step changed nothing. Look for \
         inputs that are too large or not finite"
    )]
    NonFiniteState {
        /// The step that was skipped.
        step: u64,
    },

    /// Training has given up: too many steps in a row were skipped, or gradients overflowed with
    /// the loss scale at its minimum. Weights and moments are those of the last applied step.
    #[error(
        "training gave up at step {step} ({reason}): {skipped_in_row} steps in a row were skipped \
         after {applied_total} applied ones, the last with loss scale {loss_scale}. Look for the \
         first bad tensor, lower the learning rate or clip harder, and go on from a snapshot"
    )]
    GaveUp {
        /// The step at which it gave up.
        step: u64,
        /// The [`Reason`](crate::step::Reason) of the last skip before.
        reason: String,
        /// Steps skipped in a row.
        skipped_in_row: u32,
        /// Steps applied so far.
        applied_total: u32,
        /// Loss scale of that step.
        loss_scale: f32,
    },

    /// A checkpoint that is damaged, or of another model or optimizer. Nothing was changed.
    #[error("the checkpoint cannot be used: {reason}")]
    Checkpoint {
        /// What does not fit.
        reason: String,
    },

    /// Files of a model that cannot be read as one, or not be written. Nothing was changed.
    #[error("{file}: {reason}")]
    ModelFile {
        /// The file.
        file: String,
        /// All that is wrong with it, and what to do.
        reason: String,
    },

    /// A setting outside its range.
    #[error("{setting} is {value}, but must be {range}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value, for display.
        value: String,
        /// The allowed range, for display.
        range: &'static str,
    },

    /// Text that cannot be trained on.
    #[error("{what}: {reason}")]
    Data {
        /// The file or source.
        what: String,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// A rank of a run on several is not like the others, cannot go on, or is gone. All ranks are told
    /// the same.
    #[error("rank {rank} {reason}")]
    Rank {
        /// Its number.
        rank: usize,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// A file could not be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// What the system reported.
        reason: String,
    },

    /// A file that results go to is not whole, though all else was done.
    #[error("{}: {reason}", path.display())]
    Output {
        /// The path.
        path: PathBuf,
        /// What the system reported.
        reason: String,
    },
}

impl Error {
    /// What cannot be written at the end of a run is no bad input: [`Error::File`] becomes
    /// [`Error::Output`], and all others stay.
    #[must_use]
    pub fn into_output(self) -> Self {
        match self {
            Self::File { path, reason } => Self::Output { path, reason },
            other => other,
        }
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
