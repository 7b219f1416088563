//! From a trainer to a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkpoint, HostState, Origin, STATE, TENSORS};
use super::{average_name, compensation_name, list};
use crate::error::Result;
use crate::step::{StepState, TensorState};
use crate::train::host_copy::{Contents, HostCopy};
use crate::train::{LossScale, Model, Trainer};

impl<M: Model> Trainer<M> {
    /// Everything the run needs to go on from here with the same bits. Waits for the device.
    /// [`TrainerBuilder::host_snapshots`](crate::train::TrainerBuilder::host_snapshots) takes them
    /// without.
    ///
    /// Of a [sharded](crate::train::TrainerBuilder::shard_optimizer_state) optimizer it gathers the
    /// moments of all ranks, which all have to call it at the same step, and get the same.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); with a sharded optimizer
    /// [`Error::Rank`](crate::Error::Rank) where another rank calls something else, or cannot.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.take_checkpoint("Trainer::checkpoint", None).await
    }

    /// A checkpoint with all weights, or without those that have this fingerprint; `call` is what
    /// ranks tell each other.
    pub(super) async fn take_checkpoint(
        &self,
        call: &str,
        frozen_fingerprint: Option<String>,
    ) -> Result<Checkpoint> {
        let read = self.read_checkpointed(frozen_fingerprint.is_some()).await;
        let together = self.open_together(call, read.as_ref().err());
        // What is wrong here is told as what it is.
        let (copy, staged) = read?;
        together?;
        let contents = copy.contents(&staged);
        let mut checkpoint = self.assemble_with(self.host_state(), &contents, frozen_fingerprint);
        self.gather_moments(&mut checkpoint, &contents)?;
        Ok(checkpoint)
    }

    async fn read_checkpointed(&self, only_trained: bool) -> Result<(HostCopy, Vec<Vec<u8>>)> {
        self.gpu.check()?;
        self.check_not_torn()?;
        let copy = HostCopy::new(&self.gpu, self.checkpointed(only_trained)).await?;
        let staged = copy.read(&self.gpu).await?;
        Ok((copy, staged))
    }

    /// The state the host holds, after the steps submitted so far.
    pub(in crate::train) fn host_state(&self) -> HostState {
        HostState {
            steps: self.attempted,
            seed: self.seed,
            learning_rate_factor: self.learning_rate_factor,
        }
    }

    /// The buffers a checkpoint is made of, or one without the frozen weights.
    pub(in crate::train) fn checkpointed(
        &self,
        only_trained: bool,
    ) -> impl Iterator<Item = &wgpu::Buffer> {
        let parameters = &self.parameters;
        let all = parameters.buffers().filter(move |_| !only_trained);
        let trained = parameters.trained_weights().iter().chain([parameters.committed()]);
        let weights = all.chain(trained.filter(move |_| only_trained));
        let moments = self.moments.iter().flatten();
        let memories = self.policies.iter().map(|active| &active.memory);
        weights
            .chain(moments)
            .chain(self.averages())
            .chain([&self.step.state, &self.tensors])
            .chain(memories)
    }

    /// Makes a checkpoint of what those buffers held: of a sharded optimizer with the moments of this
    /// rank alone.
    pub(in crate::train) fn assemble(
        &self,
        host: HostState,
        contents: &Contents<'_>,
    ) -> Checkpoint {
        self.assemble_with(host, contents, None)
    }

    /// Makes one with all weights, or without those that have this fingerprint.
    pub(super) fn assemble_with(
        &self,
        host: HostState,
        contents: &Contents<'_>,
        frozen_fingerprint: Option<String>,
    ) -> Checkpoint {
        let origin = Origin { frozen_fingerprint, ..self.origin(host) };
        let mut checkpoint =
            Checkpoint { entries: BTreeMap::new(), origin, notes: BTreeMap::new() };
        let left_out: BTreeSet<_> = checkpoint.left_out().into_iter().map(str::to_owned).collect();
        for name in self.parameters.names().filter(|name| !left_out.contains(*name)) {
            if self.parameters.format_of(name).is_some() {
                let blocks = self.parameters.blocks_from(name, |buffer| contents.of(buffer));
                checkpoint.put_bytes(name, blocks);
                continue;
            }
            let found = self.parameters.find(name).expect("one of its own names");
            let read = self.parameters.read_from(name, |buffer| contents.of(buffer));
            let (values, compensation) = read.expect("one of its own names");
            checkpoint.put_floats(name, &found.shape.dims, &values);
            if let Some(compensation) = compensation {
                let name = compensation_name(name);
                checkpoint.put_floats(&name, &found.shape.dims, &compensation);
            }
        }
        self.put_moments(&mut checkpoint, &self.moments_of_tensors(), |[segment, index]| {
            contents.of(&self.moments[segment][index])
        });
        self.assemble_averages(&mut checkpoint, contents);
        let words = |buffer| bytemuck::pod_collect_to_vec::<u8, u32>(contents.of(buffer));
        let rows = |buffer, bytes: usize, rows| words(buffer)[..bytes / 4 * rows].to_vec();
        let state = rows(&self.step.state, size_of::<StepState>(), 1);
        checkpoint.put_structs(STATE, StepState::FIELDS, &state);
        let count = self.parameters.trained().len();
        let tensors = rows(&self.tensors, size_of::<TensorState>(), count);
        checkpoint.put_structs(TENSORS, TensorState::FIELDS, &tensors);
        for active in &self.policies {
            checkpoint.put_words(&active.checkpoint_name(), &words(&active.memory));
        }
        checkpoint
    }

    fn assemble_averages(&self, checkpoint: &mut Checkpoint, contents: &Contents<'_>) {
        let Some(average) = &self.average else { return };
        for (index, spec) in self.parameters.trained().iter().enumerate() {
            for (_, part) in average.slot(&self.parameters, index).parts() {
                let bytes = &contents.of(&part.buffer)[part.offset as usize..];
                let quads = bytemuck::pod_collect_to_vec(&bytes[..part.shape.bytes() as usize]);
                let dense = part.shape.unpad(&quads);
                checkpoint.append_floats(&average_name(&spec.name), &part.shape.dims, &dense);
            }
        }
    }

    fn origin(&self, host: HostState) -> Origin {
        let scale = self.settings.chosen_loss_scale(&self.parameters);
        Origin {
            host,
            model: self.model.configuration(),
            optimizer: self.settings.optimizer().name().to_owned(),
            moments: list(self.moment_names.iter().copied()),
            weights: self.parameters.storage().to_string(),
            has_dynamic_scale: matches!(scale, LossScale::Dynamic(_)),
            parameters: list(self.names_in_model_order()),
            frozen: list(self.parameters.frozen().iter().map(|spec| spec.name.as_str())),
            frozen_fingerprint: None,
            shard: self.shards().description(),
            fields: BTreeMap::new(),
        }
    }

    /// Names of the parameters, whichever are frozen.
    pub(super) fn names_in_model_order(&self) -> impl Iterator<Item = &str> {
        let mut specs: Vec<_> = self.parameters.specs().iter().collect();
        specs.sort_by_key(|spec| spec.stream);
        specs.into_iter().map(|spec| spec.name.as_str())
    }
}
