//! Going on after the device was lost: the last state that the host has, and the same trainer on
//! another device.

use std::rc::Rc;

use super::builder::assembly::build;
use super::checkpoint::Checkpoint;
use super::{Model, Trainer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

impl<M: Model> Trainer<M> {
    /// The last state of the run that the host has, as [`checkpoint`](Self::checkpoint) would have
    /// given it at that step, bit by bit; see
    /// [`TrainerBuilder::host_snapshots`](super::TrainerBuilder::host_snapshots). It is there after
    /// the device is lost, too. `None` before the first one has arrived, and where none are taken.
    ///
    /// Of a [sharded](super::TrainerBuilder::shard_optimizer_state) optimizer it has the moments of this rank
    /// alone ([`Checkpoint::shard`]), and restores on this rank only; ranks go on from those of one step.
    pub fn host_snapshot(&mut self) -> Option<&Checkpoint> {
        let mut snapshots = self.host_snapshots.take()?;
        self.let_arrive();
        snapshots.assemble(|state, contents| self.assemble(state, contents));
        self.host_snapshots.insert(snapshots).last()
    }

    /// The steps of the run at [`host_snapshot`](Self::host_snapshot), at no cost.
    pub fn host_snapshot_steps(&mut self) -> Option<u64> {
        self.let_arrive();
        self.host_snapshots.as_mut()?.steps()
    }

    /// Natively wgpu calls back only when it is asked.
    fn let_arrive(&self) {
        // What has arrived stays, whatever became of the device.
        let _: Result<()> = self.gpu.check();
    }

    /// Builds the same trainer on another device, after this one was lost, and goes on from the
    /// [last host snapshot](Self::host_snapshot): [`steps`](Self::steps) says where in the data that
    /// is. On the same adapter the run is from there the one that never lost its device, bit by bit;
    /// with a [`SnapshotRing`](super::SnapshotRing), as long as it does not go back to a snapshot
    /// that the lost device had.
    ///
    /// Predictors and generators over the old [`parameters`](Self::parameters) are to be built
    /// again; telemetry that was not read is gone. On an error the trainer stays as it is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a host snapshot, and as [`TrainerBuilder::build`] and
    /// [`restore`](Self::restore).
    ///
    /// [`TrainerBuilder::build`]: super::TrainerBuilder::build
    pub async fn rebuild(&mut self, gpu: &Gpu) -> Result<()> {
        let Some(snapshot) = self.host_snapshot().cloned() else {
            return Err(Error::Unsupported {
                what: "going on after the device was lost, without a host snapshot,".into(),
                instead: "have them taken with TrainerBuilder::host_snapshots, and wait for the \
                          first; or keep checkpoints and use rebuild_from"
                    .into(),
            });
        };
        self.rebuild_from(gpu, &snapshot).await
    }

    /// [`rebuild`](Self::rebuild)s from a checkpoint.
    ///
    /// # Errors
    /// As [`TrainerBuilder::build`](super::TrainerBuilder::build) and [`restore`](Self::restore).
    pub async fn rebuild_from(&mut self, gpu: &Gpu, checkpoint: &Checkpoint) -> Result<()> {
        let parameters = self.parameters.zeroed_on(gpu).await?;
        let model = Rc::clone(&self.model);
        let mut rebuilt = build(&self.settings, model, Some(parameters), gpu).await?;
        rebuilt.restore(checkpoint).await?;
        *self = rebuilt;
        Ok(())
    }
}
