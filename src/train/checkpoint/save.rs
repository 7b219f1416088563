//! From a trainer to a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Checkpoint, HostState, Origin, STATE, TENSORS};
use super::{average_name, compensation_name, list, moment_name};
use crate::error::Result;
use crate::graph::Shape;
use crate::step::{StepState, TensorState};
use crate::train::host_copy::{Contents, HostCopy};
use crate::train::optimizers::SegmentTensor;
use crate::train::{LossScale, Model, Trainer};

/// What the optimizer keeps of one tensor, or of a part of it, in one of its buffers.
pub(super) struct Moment<'a> {
    /// Its name in the file.
    pub name: String,
    /// The name that the optimizer has for the buffer.
    pub moment: &'static str,
    /// Row of the tensor table.
    pub tensor: usize,
    pub buffer: &'a wgpu::Buffer,
    /// Where it lies in the buffer, in bytes, and its scales in front.
    pub codes: Range<usize>,
    pub scales: Range<usize>,
    pub is_square: bool,
    pub shape: Shape,
}

impl<M: Model> Trainer<M> {
    /// Everything the run needs to go on from here with the same bits. Waits for the device.
    /// [`TrainerBuilder::host_snapshots`](crate::train::TrainerBuilder::host_snapshots) takes them
    /// without.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.gpu.check()?;
        let copy = HostCopy::new(&self.gpu, self.checkpointed(false)).await?;
        let staged = copy.read(&self.gpu).await?;
        Ok(self.assemble(self.host_state(), &copy.contents(&staged)))
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

    /// Makes a checkpoint of what those buffers held.
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
        let moments = self.moments_of_tensors();
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
        let storage = self.settings.optimizer().moment_storage();
        for Moment { name, buffer, codes, scales, is_square, shape, .. } in &moments {
            let bytes = contents.of(buffer);
            let [scales, codes] = [scales, codes].map(|range| &bytes[range.clone()]);
            let dense = shape.unpad(&storage.decode(scales, codes, *is_square));
            checkpoint.append_floats(name, &shape.dims, &dense);
        }
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
            fields: BTreeMap::new(),
        }
    }

    /// Names of the parameters, whichever are frozen.
    pub(super) fn names_in_model_order(&self) -> impl Iterator<Item = &str> {
        let mut specs: Vec<_> = self.parameters.specs().iter().collect();
        specs.sort_by_key(|spec| spec.stream);
        specs.into_iter().map(|spec| spec.name.as_str())
    }

    /// All that the optimizer keeps, tensor by tensor in the order of their names in the file; what
    /// belongs to the parts of one tensor follows each other as they do.
    pub(super) fn moments_of_tensors(&self) -> Vec<Moment<'_>> {
        let optimizer = self.settings.optimizer();
        let storage = optimizer.moment_storage();
        let mut all = Vec::new();
        for (segment, buffers) in self.moments.iter().enumerate() {
            let tensors = SegmentTensor::of_segment(self.parameters.layout(), segment);
            let shares = optimizer.moment_shares(&tensors);
            let chunks = tensors.last().map_or(0, |last| last.first_chunk + last.chunk_count);
            let first = storage.scale_bytes(chunks) as usize;
            let quad = storage.quad_bytes() as usize;
            for ((&moment, buffer), shares) in self.moment_names.iter().zip(buffers).zip(shares) {
                all.extend(shares.into_iter().map(|share| {
                    let (tensor, quads) = (&tensors[share.tensor], share.shape.quads());
                    let codes = first + quad * share.first as usize;
                    let (scales, scale_bytes) = storage.scales_of(tensor.first_chunk, quads);
                    Moment {
                        name: moment_name(moment, &tensor.spec.name),
                        moment,
                        tensor: tensor.index as usize,
                        buffer,
                        codes: codes..codes + quad * quads,
                        scales: scales as usize..scales as usize + scale_bytes,
                        is_square: optimizer.squares().contains(&moment),
                        shape: share.shape,
                    }
                }));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}
