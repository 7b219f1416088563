//! Spikes of loss and norm, and reactions to them.

use bytemuck::{Pod, Zeroable};

use super::{POLICY, WORST_TENSOR};
use crate::kernel::Fragment;
use crate::kernel::shared::{NUMERICS, REDUCE, ROW_LANES_64, STEP_STATE, TENSOR_NORM, WIDE};
use crate::step::device_struct;
use crate::{kernel, wgsl};

/// `SpikeMemory`, windows and z-scores; joined after [`POLICY`] and [`WORST_TENSOR`].
pub const SPIKE_MEMORY: Fragment = wgsl!("../../../shaders/policy/shared/spike_memory.wgsl");

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

kernel! {
    /// Finds spikes of loss and norm by their z-scores and reacts to them.
    ///
    /// A window of the last samples gives mean and deviation (n - 1) once it is half full. A spike
    /// is a z-score above the threshold, or a loss that is not finite while the gradients are. It
    /// is not taken into the window, unless more than `patience` follow each other. Within an
    /// episode each reaction serves `repeats` spikes, the last one all further ones.
    pub GuardSpikes = [
        STEP_STATE, WIDE, NUMERICS, ROW_LANES_64, REDUCE, TENSOR_NORM, POLICY, WORST_TENSOR, SPIKE_MEMORY,
        wgsl!("../../../shaders/policy/guard_spikes.wgsl"),
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
        /// (tensor_count) [`TensorNorm`](crate::kernels::TensorNorm) of the gradients, loss scale included;
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
