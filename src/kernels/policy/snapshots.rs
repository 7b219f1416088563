//! Snapshots on the device, and going back to them.

use bytemuck::{Pod, Zeroable};

use super::POLICY;
use crate::kernel::shared::{GRID, STEP_STATE, WIDE};
use crate::kernel::{Fragment, grid};
use crate::step::device_struct;
use crate::{kernel, wgsl};

/// `RollbackMemory`, `SnapshotRing`.
pub const SNAPSHOT: Fragment = wgsl!("../../../shaders/policy/shared/snapshot.wgsl");

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

kernel! {
    /// Decides what becomes of the ring of snapshots in this step, and does what is not copied.
    pub DecideSnapshot = [
        STEP_STATE, WIDE, POLICY, SNAPSHOT, wgsl!("../../../shaders/policy/decide_snapshot.wgsl"),
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
    pub CopySnapshot = [STEP_STATE, GRID, SNAPSHOT, wgsl!("../../../shaders/policy/copy_snapshot.wgsl")];
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
        STEP_STATE, WIDE, POLICY, SNAPSHOT, wgsl!("../../../shaders/policy/cut_learning_rate.wgsl"),
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
