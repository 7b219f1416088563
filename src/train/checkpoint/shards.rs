//! Checkpoints of a sharded optimizer: whole ones, for which ranks gather what each of them keeps, and
//! those of one rank, which host snapshots are.

use super::{Checkpoint, MOMENT, invalid};
use crate::error::Result;
use crate::train::host_copy::Contents;
use crate::train::ranks::spread;
use crate::train::{Model, Trainer};

impl Checkpoint {
    /// The rank whose moments alone it has, and which those are: a
    /// [host snapshot](crate::train::Trainer::host_snapshot) of a run with a
    /// [sharded](crate::train::TrainerBuilder::shard_optimizer_state) optimizer. It restores on that
    /// rank of as many. `None` for one that has everything.
    pub fn shard(&self) -> Option<&str> {
        self.origin.shard.as_deref()
    }
}

impl<M: Model> Trainer<M> {
    /// Puts the moments of all ranks, which do this together, into a checkpoint that has those of this
    /// one. Nothing to do where this rank keeps them all.
    pub(super) fn gather_moments(
        &self,
        checkpoint: &mut Checkpoint,
        contents: &Contents<'_>,
    ) -> Result<()> {
        let Some(exchange) = self.shard_holders() else { return Ok(()) };
        checkpoint.entries.retain(|name, _| !name.starts_with(MOMENT));
        checkpoint.origin.shard = None;
        let (layout, shards) = (self.parameters.layout(), self.shards());
        // Rows of a tensor are in the order of ranks.
        for rank in 0..exchange.size() {
            // By segment, then by moment.
            let mut buffers = Vec::new();
            for sizes in self.settings.moment_bytes(layout, &shards, rank) {
                buffers
                    .push(sizes.iter().map(|&bytes| vec![0; bytes as usize]).collect::<Vec<_>>());
            }
            for (segment, buffers) in buffers.iter_mut().enumerate() {
                for (index, kept) in buffers.iter_mut().enumerate() {
                    if rank == exchange.rank() {
                        let own = contents.of(&self.moments[segment][index]);
                        let bytes = kept.len();
                        kept.copy_from_slice(&own[..bytes]);
                    }
                    spread(exchange, rank, kept)?;
                }
            }
            self.put_moments(checkpoint, &self.moments_of(&shards, rank), |[segment, index]| {
                &buffers[segment][index]
            });
        }
        Ok(())
    }

    /// Fails for a checkpoint with the moments of one rank alone, unless they are those that are kept
    /// here.
    pub(super) fn check_shard(&self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(theirs) = checkpoint.shard() else { return Ok(()) };
        let ours = self.shards().description();
        if ours.as_deref() == Some(theirs) {
            return Ok(());
        }
        let ours = match ours {
            Some(ours) => format!("those of {ours}"),
            None => "all moments".into(),
        };
        Err(invalid(format!(
            "it has the moments of {theirs} alone, and here are {ours}; take one that \
             Trainer::checkpoint made on all ranks"
        )))
    }
}
