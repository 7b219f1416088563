//! Policies on the device: what they remember, and how they judge a step between
//! [`GradientNorm`](crate::kernels::GradientNorm) and [`Verdict`](crate::kernels::Verdict).
//!
//! Each keeps a memory of its own and takes the sample of a step in at the next one, if the step
//! was applied. So no memory holds the sample it judges, one of a skipped step, or one that is not
//! finite. Norms are widened, so none of any size overflows on the way.

mod clip;
mod snapshots;
mod spikes;

pub use clip::*;
pub use snapshots::*;
pub use spikes::*;

use crate::kernel::{Declaration, Fragment, Kernel};
use crate::wgsl;

/// Reasons and events of policies, norms as they remember them; wants [`STEP_STATE`] and [`WIDE`].
///
/// [`STEP_STATE`]: crate::kernel::shared::STEP_STATE
/// [`WIDE`]: crate::kernel::shared::WIDE
pub const POLICY: Fragment = wgsl!("../../../shaders/policy/shared/policy.wgsl");

/// `tensor_norm`, `workgroup_worst`: norms of tensors and the one furthest out of line; wants
/// [`STEP_STATE`], [`WIDE`], [`TENSOR_NORM`] and [`REDUCE`].
///
/// [`REDUCE`]: crate::kernel::shared::REDUCE
/// [`STEP_STATE`]: crate::kernel::shared::STEP_STATE
/// [`TENSOR_NORM`]: crate::kernel::shared::TENSOR_NORM
/// [`WIDE`]: crate::kernel::shared::WIDE
pub const WORST_TENSOR: Fragment = wgsl!("../../../shaders/policy/shared/worst_tensor.wgsl");

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    GuardSpikes::DECLARATION,
    DecideSnapshot::DECLARATION,
    CopySnapshot::DECLARATION,
    CutLearningRate::DECLARATION,
    ClipByZScore::DECLARATION,
    ClipTensors::DECLARATION,
    ClipByHistory::DECLARATION,
    ClipByPercentile::DECLARATION,
    ClipUnits::DECLARATION,
];
