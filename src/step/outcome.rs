//! What became of a step: its verdict, the reason of a skip, what policies did.

/// `StepState::verdict` of a step that commits.
pub const APPLY: u32 = 1;
/// `StepState::verdict` of a step that changes nothing.
pub const SKIP: u32 = 0;

/// Why a step was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// It was not.
    None = 0,
    /// A gradient element is NaN or Inf, or with a loss scale the largest f32.
    NonFiniteGradient = 1,
    /// Training had given up before.
    GaveUp = 2,
    /// A policy found the loss out of line.
    LossSpike = 3,
    /// A policy found the gradient norm out of line.
    NormSpike = 4,
    /// The run went back to a snapshot.
    RolledBack = 5,
    /// The loss of a microbatch is NaN or Inf, or their mean is, while the gradients are finite.
    NonFiniteLoss = 6,
    /// A new value of a state, such as a running variance, is NaN or Inf, while loss and gradients
    /// are finite.
    NonFiniteState = 7,
}

impl Reason {
    /// The reason with this number; unknown numbers give `None`.
    pub const fn from_bits(bits: u32) -> Self {
        match bits {
            1 => Self::NonFiniteGradient,
            2 => Self::GaveUp,
            3 => Self::LossSpike,
            4 => Self::NormSpike,
            5 => Self::RolledBack,
            6 => Self::NonFiniteLoss,
            7 => Self::NonFiniteState,
            _ => Self::None,
        }
    }
}

/// What a policy did in a step; a bit each of [`StepState::events`](super::StepState::events).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// Saw a loss out of line.
    LossSpike = 1,
    /// Saw a norm out of line.
    NormSpike = 2,
    /// Clipped harder than the settings say.
    ClippedHarder = 4,
    /// Ran with a learning rate below the schedule's.
    LearningRateCut = 8,
    /// Emptied the moments of a tensor.
    MomentsReset = 16,
    /// Went back to a snapshot.
    RolledBack = 32,
    /// Took a snapshot.
    Snapshot = 64,
    /// The loss scale went down.
    LossScaleDown = 128,
    /// The loss scale went up.
    LossScaleUp = 256,
}

impl Event {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 9] = [
        Self::LossSpike,
        Self::NormSpike,
        Self::ClippedHarder,
        Self::LearningRateCut,
        Self::MomentsReset,
        Self::RolledBack,
        Self::Snapshot,
        Self::LossScaleDown,
        Self::LossScaleUp,
    ];

    /// The events that `bits` holds.
    pub fn from_bits(bits: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |&event| bits & event as u32 != 0)
    }
}
