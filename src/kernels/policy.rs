//! Policies on the device: what they remember, and how they judge a step between
//! [`GradientNorm`](super::GradientNorm) and [`Verdict`](super::Verdict).
//!
//! Each keeps a memory of its own and takes the sample of a step in at the next one, if the step
//! was applied. So no memory holds the sample it judges, one of a skipped step, or one that is not
//! finite. Norms are widened, so none of any size overflows on the way.

use bytemuck::{Pod, Zeroable};

use crate::kernel::shared::{
    GRID, LANES_64, NUMERICS, REDUCE, STEP_STATE, TENSOR_NORM, WEIGHT_F32, WIDE,
};
use crate::kernel::{Declaration, Fragment, Kernel, grid};
use crate::step::device_struct;
use crate::{kernel, wgsl};

/// Reasons and events of policies, norms as they remember them; wants [`STEP_STATE`] and [`WIDE`].
pub const POLICY: Fragment = wgsl!("../../shaders/policy/shared/policy.wgsl");
/// `tensor_norm`, `workgroup_worst`: norms of tensors and the one furthest out of line; wants
/// [`STEP_STATE`], [`WIDE`], [`TENSOR_NORM`] and [`REDUCE`].
pub const WORST_TENSOR: Fragment = wgsl!("../../shaders/policy/shared/worst_tensor.wgsl");
/// `SpikeMemory`, windows and z-scores; joined after [`POLICY`] and [`WORST_TENSOR`].
pub const SPIKE_MEMORY: Fragment = wgsl!("../../shaders/policy/shared/spike_memory.wgsl");
/// `RollbackMemory`, `SnapshotRing`.
pub const SNAPSHOT: Fragment = wgsl!("../../shaders/policy/shared/snapshot.wgsl");

/// [`SpikeReaction::kind`]: the step is skipped.
pub const SPIKE_SKIP: u32 = 0;
/// [`SpikeReaction::kind`]: the gradients are clipped to `factor` times the mean norm.
pub const SPIKE_CLIP_HARDER: u32 = 1;
/// [`SpikeReaction::kind`]: skipped, and `steps` applied steps run at `factor` times the rate.
pub const SPIKE_CUT_LEARNING_RATE: u32 = 2;
/// [`SpikeReaction::kind`]: skipped, and the moments of the worst tensor are emptied.
pub const SPIKE_RESET_MOMENTS: u32 = 3;
/// [`SpikeReaction::kind`]: skipped, and a snapshot is asked for.
pub const SPIKE_ROLL_BACK: u32 = 4;

device_struct! {
    /// One reaction to a spike.
    SpikeReaction {
        /// [`SPIKE_SKIP`] to [`SPIKE_ROLL_BACK`].
        kind: u32,
        /// See the kinds.
        factor: f32,
        /// See the kinds.
        steps: u32,
    }
}

device_struct! {
    /// What [`GuardSpikes`] remembers, beside its samples: two windows, of losses and of norms, and
    /// for each tensor its mean norm and a pending one.
    SpikeMemory {
        /// Losses in their window.
        loss_count: u32,
        /// Where the next one goes.
        loss_next: u32,
        /// Norms in their window.
        norm_count: u32,
        /// Where the next one goes.
        norm_next: u32,
        /// Bits: a norm, a loss, and whether the sample counts even if its step was skipped.
        pending: u32,
        /// Loss of the step before, where it is finite.
        pending_loss: f32,
        /// Norm of the step before.
        pending_norm: f32,
        /// Steps since the last spike, up to [`GuardSpikesParams::within`].
        quiet: u32,
        /// Spikes of the episode.
        episode: u32,
        /// Spikes in a row.
        in_row: u32,
        /// Applied steps for which the learning rate stays cut.
        cut_left: u32,
        /// Factor of the cut.
        cut_factor: f32,
    }
}

impl SpikeMemory {
    /// Words of the memory and its samples.
    pub const fn words(window: u32, tensor_count: u32) -> usize {
        size_of::<Self>() / 4 + 2 * window as usize + 2 * tensor_count as usize
    }
}

device_struct! {
    /// What is remembered of rollbacks.
    RollbackMemory {
        /// A digest of the steps so far, which tells one past from another.
        stamp: u32,
        /// Rollbacks so far.
        rollbacks: u32,
        /// Bad steps since the last applied one or rollback.
        bad: u32,
        /// Applied steps for which the learning rate stays cut.
        cut_left: u32,
    }
}

device_struct! {
    /// What [`ClipByZScore`] remembers.
    ZScoreMemory {
        /// Norms taken in, up to the warm-up.
        count: u32,
        /// 1 if `pending` waits for its verdict.
        is_pending: u32,
        /// Norm of the step before, clipped.
        pending: f32,
        /// Mean of the norms.
        mean: f32,
        /// Root of their variance.
        deviation: f32,
    }
}

kernel! {
    /// Finds spikes of loss and norm by their z-scores and reacts to them.
    ///
    /// A window of the last samples gives mean and deviation (n - 1) once it is half full. A spike
    /// is a z-score above the threshold, or a loss that is not finite while the gradients are. It
    /// is not taken into the window, unless more than `patience` follow each other. Within an
    /// episode each reaction serves `repeats` spikes, the last one all further ones.
    pub GuardSpikes = [
        STEP_STATE, WIDE, NUMERICS, LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR, SPIKE_MEMORY,
        wgsl!("../../shaders/policy/guard_spikes.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform GuardSpikesParams {
        /// Rows of the tensor table.
        tensor_count: u32,
        /// Samples in a window, at least 2.
        window: u32,
        /// Largest z-score that is no spike.
        threshold: f32,
        /// 1: spikes of the loss count.
        watch_loss: u32,
        /// 1: spikes of the norm count.
        watch_norm: u32,
        /// 1: `norms` are there, and the worst tensor is found.
        watch_tensors: u32,
        /// Reactions, at least 1.
        reaction_count: u32,
        /// Spikes of an episode that each reaction serves, at least 1.
        repeats: u32,
        /// A spike this many steps after the last one begins an episode.
        within: u32,
        /// Spikes in a row after which samples are taken in all the same.
        patience: u32,
    }
    buffers {
        /// (reaction_count) [`SpikeReaction`], in order of severity.
        Read reactions,
        /// (1) f32
        Read loss,
        /// (tensor_count) [`TensorNorm`](super::TensorNorm) of the gradients, loss scale included;
        /// any other buffer if `watch_tensors` is 0.
        Read norms,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): `reset` may be set.
        Write tensors,
        /// [`SpikeMemory`] and its samples, advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

kernel! {
    /// Decides what becomes of the ring of snapshots in this step, and does what is not copied.
    pub DecideSnapshot = [
        STEP_STATE, WIDE, POLICY, SNAPSHOT, wgsl!("../../shaders/policy/decide_snapshot.wgsl"),
    ];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform DecideSnapshotParams {
        /// Snapshots in the ring.
        capacity: u32,
        /// Applied steps between snapshots.
        every: u32,
        /// Bad steps in a row that bring a rollback; 0: only if a policy asks.
        after: u32,
        /// Rollbacks before training gives up.
        max_rollbacks: u32,
        /// Applied steps after a rollback for which the learning rate is cut.
        cut_steps: u32,
    }
    buffers {
        /// (1) [`RollbackMemory`], advanced.
        Write memory,
        /// Stamp, action, slot, newest, count, steps since the last; then (capacity) steps applied
        /// when each was taken. Advanced.
        Write ring,
        /// (1) [`StepState`](crate::step::StepState): events, and after a rollback its clock.
        Write state,
    }
}

kernel! {
    /// Copies a flat buffer into the ring of snapshots or back, as [`DecideSnapshot`] says.
    pub CopySnapshot = [STEP_STATE, GRID, SNAPSHOT, wgsl!("../../shaders/policy/copy_snapshot.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(4096));
    uniform CopySnapshotParams {
        /// Quads of the live buffer.
        quads: u32,
    }
    buffers {
        /// As in [`DecideSnapshot`].
        Read ring,
        /// (quads), of any 4-byte type; overwritten or left alone.
        Write live,
        /// (capacity, quads), one row overwritten or none.
        Write snapshots,
    }
}

kernel! {
    /// Cuts the learning rate of the steps after a rollback.
    pub CutLearningRate = [
        STEP_STATE, WIDE, POLICY, SNAPSHOT, wgsl!("../../shaders/policy/cut_learning_rate.wgsl"),
    ];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform CutLearningRateParams {
        /// Factor on the learning rate.
        factor: f32,
    }
    buffers {
        /// (1) [`RollbackMemory`]
        Read memory,
        /// (1) [`StepState`](crate::step::StepState): the factor on the learning rate.
        Write state,
    }
}

kernel! {
    /// ZClip: clips norms whose z-score stands out (Kumar et al. 2025).
    pub ClipByZScore = [STEP_STATE, WIDE, POLICY, wgsl!("../../shaders/policy/clip_by_z_score.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByZScoreParams {
        /// Largest z-score that is not clipped.
        threshold: f32,
        /// Weight of the old mean and variance.
        alpha: f32,
        /// 1 - alpha, rounded once.
        one_minus_alpha: f32,
        /// Norms before the first clip, at least 1.
        warmup: u32,
        /// Norms above are clipped in any case.
        max_norm: f32,
        /// Factor on the adaptive threshold.
        clip_factor: f32,
        /// Added to the deviation.
        eps: f32,
        /// 1: clip to the mean instead.
        to_mean: u32,
        /// 1: mean and variance follow what spikes are clipped to; 0: they leave spikes out.
        learn_from_spikes: u32,
    }
    buffers {
        /// (1) [`ZScoreMemory`], advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

kernel! {
    /// Clips the gradient of each tensor by its own norm.
    pub ClipTensors = [
        STEP_STATE, WIDE, LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR,
        wgsl!("../../shaders/policy/clip_tensors.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipTensorsParams {
        /// Rows of the tensor table.
        tensor_count: u32,
    }
    buffers {
        /// (tensor_count): largest norm of each tensor.
        Read bounds,
        /// (tensor_count) [`TensorNorm`](super::TensorNorm), loss scale included.
        Read norms,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients.
        Write tensors,
        /// (1) [`StepState`](crate::step::StepState): events.
        Write state,
    }
}

kernel! {
    /// AdaGC: clips each tensor by an average of its own norms (Wang et al. 2025).
    pub ClipByHistory = [
        STEP_STATE, WIDE, LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR,
        wgsl!("../../shaders/policy/clip_by_history.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByHistoryParams {
        /// Rows of the tensor table.
        tensor_count: u32,
        /// Largest norm of a tensor, beside its average.
        lambda_relative: f32,
        /// Largest norm of all gradients in the warm-up.
        lambda_absolute: f32,
        /// Weight of the old average.
        beta: f32,
        /// 1 - beta, rounded once.
        one_minus_beta: f32,
        /// Steps of the warm-up.
        warmup: u32,
    }
    buffers {
        /// (tensor_count) [`TensorNorm`](super::TensorNorm), loss scale included.
        Read norms,
        /// (tensor_count) [`TensorState`](crate::step::TensorState): clip coefficients.
        Write tensors,
        /// Steps taken in, whether one is pending; then (tensor_count, 2): average norms, and those
        /// of the step before. Advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

/// The most norms that [`ClipByPercentile`] can hold.
pub const LONGEST_HISTORY: u32 = 1024;

kernel! {
    /// AutoClip: clips to a percentile of the norms before (Seetharaman et al. 2020).
    pub ClipByPercentile = [
        STEP_STATE, WIDE, POLICY, wgsl!("../../shaders/policy/clip_by_percentile.wgsl"),
    ];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ClipByPercentileParams {
        /// Norms that are kept, at most [`LONGEST_HISTORY`].
        history: u32,
        /// The power of two at or above it.
        sorted: u32,
        /// The percentile, divided by 100.
        share: f32,
        /// Norms before the first clip, at least 1.
        warmup: u32,
    }
    buffers {
        /// Norms kept, where the next goes, whether one is pending, which; then (history) norms.
        /// Advanced.
        Write memory,
        /// (1) [`StepState`](crate::step::StepState): what policies may set.
        Write state,
    }
}

device_struct! {
    /// A part of a tensor that [`ClipUnits`] clips by itself.
    ClipUnit {
        /// First quad in the flat buffer.
        offset: u32,
        /// Quads, padding included.
        quads: u32,
    }
}

kernel! {
    /// Adaptive gradient clipping: clips each unit by the norm of its weights (Brock et al. 2021).
    pub ClipUnits = [
        STEP_STATE, GRID, WIDE, LANES_64, REDUCE, WEIGHT_F32,
        wgsl!("../../shaders/policy/clip_units.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.unit_count);
    uniform ClipUnitsParams {
        /// Rows of the table of units.
        unit_count: u32,
        /// Largest norm of a gradient, beside that of its weights.
        clipping: f32,
        /// Weights count as having this norm at least.
        eps: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState): the loss scale.
        Read state,
        /// (unit_count) [`ClipUnit`]
        Read units,
        /// Flat weights in quads, read only.
        Write weight,
        /// Flat gradient in quads, still scaled; clipped in place. A unit with a NaN, an Inf or
        /// the largest f32 is left alone.
        Write gradient,
    }
}

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
