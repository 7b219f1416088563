//! Snapshots on the device, and the way back to them.

use super::{Committed, Judgement, Policy, check};
use crate::error::Result;
use crate::kernels::{
    CopySnapshot, CopySnapshotParams, CutLearningRate, CutLearningRateParams, DecideSnapshot,
    DecideSnapshotParams, RollbackMemory,
};
use crate::record::{Recorder, to_u32};

/// Keeps the last few states of the run on the device and goes back to one after bad steps.
///
/// A snapshot holds every byte that a step commits: weights, moments, averages, states, the tensors' clocks
/// and bias corrections, and the count of applied steps, which is the schedule's clock. It is taken
/// after every `every`-th applied step, later where a policy saw a spike. A rollback happens after
/// `after` bad steps in a row, or when a policy asks for it
/// ([`Reaction::RollBack`](super::Reaction::RollBack)). It is a skipped step of reason
/// [`RolledBack`](crate::step::Reason::RolledBack) that ends with the bytes of the snapshot. The
/// device decides and copies; the host neither reads nor waits.
///
/// What is not put back goes on: the host's place in the data, so the batches since the snapshot
/// are not seen again; the number of the step, which keys dropout and other random streams, so that
/// they do not repeat (stochastic rounding of weights goes by applied steps, and does); the loss
/// scale; what other policies remember; and the counts of skipped steps. So the run after a rollback
/// is one that started from the snapshot with the next batch.
///
/// The snapshot that was gone back to is given up, unless it is the only one: if trouble returns
/// before there is another, the next older one is used. After `max_rollbacks` of them, one more
/// makes training give up, as does `give_up_after` skipped steps in a row.
///
/// A skipped step is bad unless it lowered the loss scale. The learning rate may be cut for a while
/// after a rollback: otherwise the run may take the same way into the same trouble.
///
/// It costs `snapshots` times the memory of weights and moments, see
/// [`TrainerReport::policy_bytes`](crate::train::TrainerReport), one dispatch that ends at once per
/// flat buffer and step, and a copy of everything every `every` steps. Checkpoints do not hold the
/// ring: a restored run takes a new first snapshot.
///
/// PaLM (Chowdhery et al. 2022) was restarted about 100 steps before a spike, without the 200 to
/// 500 batches around it, by hand; OPT (Zhang et al. 2022) also lowered the learning rate. Use it for
/// long runs that nobody watches, with [`SpikeGuard::with_rollback`](super::SpikeGuard::with_rollback).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SnapshotRing {
    /// Snapshots that are kept.
    pub snapshots: u32,
    /// Applied steps between them.
    pub every: u32,
    /// Bad steps in a row that bring a rollback; 0: only if a policy asks.
    pub after: u32,
    /// Rollbacks of the run, before training gives up.
    pub max_rollbacks: u32,
    /// Factor on the learning rate after a rollback.
    pub learning_rate_factor: f32,
    /// Applied steps for which it holds.
    pub cut_steps: u32,
}

impl Default for SnapshotRing {
    /// Two snapshots, 100 steps apart; back after 10 bad steps in a row, at most 10 times; half the
    /// learning rate for 100 steps after.
    fn default() -> Self {
        Self {
            snapshots: 2,
            every: 100,
            after: 10,
            max_rollbacks: 10,
            learning_rate_factor: 0.5,
            cut_steps: 100,
        }
    }
}

impl SnapshotRing {
    /// Records the copies of a flat buffer, in parts of which a ring fits a binding.
    fn copy(&self, recorder: &mut Recorder<'_>, ring: &wgpu::Buffer, live: &wgpu::Buffer) {
        const ALIGNMENT: u64 = 256;
        let gpu = recorder.gpu();
        let largest = gpu.largest_binding() / u64::from(self.snapshots);
        let part = (largest - largest % ALIGNMENT).max(ALIGNMENT);
        let mut offset = 0;
        while offset < live.size() {
            let bytes = part.min(live.size() - offset);
            let snapshots = gpu.buffer("snapshots", bytes * u64::from(self.snapshots));
            let size = std::num::NonZeroU64::new(bytes);
            recorder.dispatch(&CopySnapshot {
                params: CopySnapshotParams { quads: to_u32(bytes as usize / 16) },
                ring: ring.as_entire_buffer_binding(),
                live: wgpu::BufferBinding { buffer: live, offset, size },
                snapshots: snapshots.as_entire_buffer_binding(),
            });
            offset += bytes;
        }
    }
}

impl Policy for SnapshotRing {
    fn name(&self) -> &'static str {
        "snapshot ring"
    }

    fn validate(&self) -> Result<()> {
        let count = self.snapshots;
        check("snapshots", count as f32, (1..=1024).contains(&count), "1 to 1,024")?;
        check("snapshot interval", self.every as f32, self.every > 0, "at least 1 step")?;
        let factor = self.learning_rate_factor;
        let fits = (0.0..=1.0).contains(&factor);
        check("learning rate factor after a rollback", factor, fits, "in [0, 1]")
    }

    fn memory(&self, _tensor_count: u32) -> Vec<u32> {
        bytemuck::cast_slice(&[RollbackMemory::default()]).to_vec()
    }

    fn can_roll_back(&self) -> bool {
        true
    }

    fn device_bytes(&self, committed: u64) -> u64 {
        u64::from(self.snapshots) * committed
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        if self.cut_steps == 0 {
            return;
        }
        let state = recorder.step_state();
        recorder.dispatch(&CutLearningRate {
            params: CutLearningRateParams { factor: self.learning_rate_factor },
            memory: judgement.memory.as_entire_buffer_binding(),
            state,
        });
    }

    fn after_update(&self, recorder: &mut Recorder<'_>, committed: &Committed<'_>) {
        let state = recorder.step_state();
        let words = 6 + self.snapshots as usize;
        let ring = recorder.gpu().upload("snapshot ring", &vec![0u32; words]);
        recorder.dispatch(&DecideSnapshot {
            params: DecideSnapshotParams {
                capacity: self.snapshots,
                every: self.every,
                after: self.after,
                max_rollbacks: self.max_rollbacks,
                cut_steps: self.cut_steps,
            },
            memory: committed.memory.as_entire_buffer_binding(),
            ring: ring.as_entire_buffer_binding(),
            state,
        });
        for live in committed.buffers() {
            self.copy(recorder, &ring, live);
        }
    }
}
