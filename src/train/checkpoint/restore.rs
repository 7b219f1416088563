//! From a checkpoint to a trainer. All that will be written is put together first, so that a
//! checkpoint that does not fit leaves no trace.

use std::collections::BTreeSet;

use super::check::{check_names, check_state, check_tensor, continued};
use super::{Checkpoint, HostState, POLICY, RESERVED, STATE, TENSORS};
use super::{average_name, compensation_name, invalid, list, moment_name};
use crate::error::Result;
use crate::graph::{Graph, Phase};
use crate::kernel::WeightStorage;
use crate::plan::parameters::WeightSource;
use crate::record::to_u32;
use crate::step::{StepState, TensorState};
use crate::train::{Lengths, Model, Trainer};

/// Bytes for a place in a buffer.
pub(super) type Write = (wgpu::Buffer, u64, Vec<u8>);

impl Checkpoint {
    /// Whether something is kept beside the weights.
    fn has_compensations(&self) -> bool {
        self.origin.weights == WeightStorage::Bf16Kahan.to_string()
    }
}

impl<M: Model> Trainer<M> {
    /// Goes back to a checkpoint of a run of the same model and optimizer: what the run has gone
    /// through comes from there, and how it goes on is what this trainer was built with;
    /// [`Checkpoint`] has the table. Telemetry begins at its step.
    ///
    /// All or nothing: on an error the trainer is, bit by bit, what it was.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a checkpoint of another model or
    /// optimizer, one that lacks something or has something that is not known, and for values that
    /// no run can go on from, such as NaN; it says what. [`Error::DeviceLost`](crate::Error).
    pub async fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.check_whole()?;
        self.restore_all_of(checkpoint).await
    }

    /// Goes back to all that is in a checkpoint.
    pub(super) async fn restore_all_of(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.gpu.check()?;
        let origin = &checkpoint.origin;
        self.check_shard(checkpoint)?;
        let mut writes = self.weights_of(checkpoint)?;
        self.check_optimizer(checkpoint)?;
        self.check_extra(checkpoint)?;
        let [state]: [StepState; 1] = checkpoint
            .structs(STATE, StepState::FIELDS, 1)?
            .try_into()
            .expect("as many rows as asked for");
        check_state(&state, checkpoint.steps())?;
        let tensors = self.tensors_of(checkpoint, state.applied_total)?;
        writes.extend(self.moments_from(checkpoint)?);
        writes.extend(self.averages_from(checkpoint)?);
        let scale = self.settings.chosen_loss_scale(&self.parameters);
        let state = continued(&state, origin.has_dynamic_scale, &scale);
        writes.push((self.step.state.clone(), 0, bytemuck::bytes_of(&state).to_vec()));
        writes.push((self.tensors.clone(), 0, bytemuck::cast_slice(&tensors).to_vec()));
        writes.extend(self.memories_of(checkpoint)?);

        self.write_all(writes);
        self.go_on_from(origin.host);
        if let Some(snapshots) = &mut self.host_snapshots {
            snapshots.restart(Some(checkpoint).filter(|checkpoint| checkpoint.is_whole()));
        }
        Ok(())
    }

    /// Begins anew with the weights and states of a checkpoint, and nothing else of it: at step 0,
    /// with empty moments and memories, averages that start as the weights, the seed and the loss
    /// scale that the trainer was built with. So a run goes on with another optimizer, or is tuned
    /// on other data. The model must be the same, the optimizer need not.
    ///
    /// All or nothing, as [`restore`](Self::restore).
    ///
    /// # Errors
    /// As [`restore`](Self::restore), but only for weights and states.
    pub async fn restore_weights(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.gpu.check()?;
        checkpoint.check_whole()?;
        let mut writes = self.weights_of(checkpoint)?;
        writes.extend(self.first_step()?);
        self.begin_anew(writes);
        Ok(())
    }

    /// Begins anew, as [`restore_weights`](Self::restore_weights) does, with parameters from
    /// elsewhere: a folder of [`hugging_face`](crate::hugging_face), say. They come a few rows at a
    /// time, and no copy of all of them is made on the host. States stay as they are, and averages
    /// start as the weights.
    ///
    /// # Errors
    /// Those of [`Parameters::load`](crate::plan::Parameters::load). Where the source finds fault
    /// with what it has, nothing has changed.
    pub async fn load_weights(&mut self, source: &mut impl WeightSource) -> Result<()> {
        self.gpu.check()?;
        let writes = self.first_step()?;
        self.parameters.load(source).await?;
        let mut graph = Graph::new(Phase::Evaluate).with_weights(self.parameters.storage());
        graph.set_length(self.settings.lengths.as_ref().map(Lengths::longest));
        self.model.build(&mut graph);
        self.parameters.start(&graph, |name| !source.provides(name)).await?;
        self.begin_anew(writes);
        Ok(())
    }

    /// What the device counts, and what policies remember, in front of the first step.
    fn first_step(&self) -> Result<Vec<Write>> {
        let state = self.settings.initial_state(&self.parameters);
        let tensors = self.settings.initial_tensors(&self.parameters)?;
        let mut writes = vec![
            (self.step.state.clone(), 0, bytemuck::bytes_of(&state).to_vec()),
            (self.tensors.clone(), 0, bytemuck::cast_slice(&tensors).to_vec()),
        ];
        for active in &self.policies {
            let memory = bytemuck::cast_slice(&active.fresh_memory(self.tensor_count())).to_vec();
            writes.push((active.memory.clone(), 0, memory));
        }
        Ok(writes)
    }

    fn begin_anew(&mut self, writes: Vec<Write>) {
        self.write_all(writes);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for moment in self.moments.iter().flatten() {
            encoder.clear_buffer(moment, 0, None);
        }
        self.gpu.submit(encoder);
        if let Some(average) = &self.average {
            average.start(&self.gpu, &self.parameters);
        }
        let seed = self.settings.seed();
        self.go_on_from(HostState { steps: 0, seed, learning_rate_factor: 1.0 });
        if let Some(snapshots) = &mut self.host_snapshots {
            snapshots.restart(None);
        }
    }

    fn tensor_count(&self) -> u32 {
        to_u32(self.parameters.trained().len())
    }

    fn write_all(&self, writes: Vec<Write>) {
        for (buffer, offset, bytes) in writes {
            self.gpu.write(&buffer, offset, &bytes);
        }
    }

    /// What the host knows of the run.
    fn go_on_from(&mut self, host: HostState) {
        self.attempted = host.steps;
        self.seed = host.seed;
        self.learning_rate_factor = host.learning_rate_factor;
        self.ring.start_at(self.attempted);
        if let Some(watch) = &mut self.watch {
            watch.start_at(self.attempted);
        }
        self.gave_up = None;
        if let Some(ranks) = &mut self.ranks {
            ranks.begin_anew();
        }
    }

    /// Weights and states, in the storage that they have here.
    fn weights_of(&self, checkpoint: &Checkpoint) -> Result<Vec<Write>> {
        let ours = list(self.names_in_model_order());
        check_names("parameters", &checkpoint.origin.parameters, &ours)?;
        let (theirs, ours) = (&checkpoint.origin.model, self.model.configuration());
        if *theirs != ours && !theirs.is_empty() && !ours.is_empty() {
            return Err(invalid(format!("its model has {theirs}, and here it has {ours}")));
        }
        let left_out = checkpoint.left_out();
        let is_there = |name: &&str| !left_out.contains(name);
        let sorted: BTreeSet<_> = self.parameters.names().filter(is_there).collect();
        check_names("tensors", &list(checkpoint.names()), &list(sorted))?;
        let mut writes = Vec::new();
        let names = self.parameters.names().enumerate().filter(|(_, name)| is_there(name));
        for (index, name) in names {
            let shape = self.parameters.find(name)?.shape;
            if let Some(format) = shape.block_format() {
                let count = shape.rows() * shape.row_blocks() * format.bytes();
                let blocks = checkpoint.bytes(name, count)?;
                let encoded = self.parameters.encode_blocks(name, &blocks);
                writes.extend(encoded.map_err(|error| invalid(error.to_string()))?);
                continue;
            }
            let values = checkpoint.floats(name, &shape.dims)?;
            let encoded = self.parameters.encode(name, values);
            let mut encoded = encoded.map_err(|error| invalid(error.to_string()))?;
            if checkpoint.has_compensations() && index < self.parameters.specs().len() {
                let kept = checkpoint.floats(&compensation_name(name), &shape.dims)?;
                let exact = self.parameters.encode_compensated(name, values, kept)?;
                encoded = exact.ok_or_else(|| {
                    invalid(format!("the compensation of {name} is not that of its weights"))
                })?;
            }
            writes.extend(encoded);
        }
        Ok(writes)
    }

    fn check_optimizer(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (origin, name) = (&checkpoint.origin, self.settings.optimizer().name());
        let moments = list(self.moment_names.iter().copied());
        if origin.optimizer == name && origin.moments == moments {
            return Ok(());
        }
        let words = |name: &str, moments: &str| match moments {
            "" => format!("{name}, which keeps nothing"),
            moments => format!("{name}, which keeps {}", moments.replace('\n', ", ")),
        };
        Err(invalid(format!(
            "its optimizer was {}, and here it is {}; take the one it was, or begin anew with its \
             weights by Trainer::restore_weights",
            words(&origin.optimizer, &origin.moments),
            words(name, &moments)
        )))
    }

    /// Fails for what nobody knows. What belongs to policies and tensors without moments, which
    /// this run does without, is left out.
    fn check_extra(&self, checkpoint: &Checkpoint) -> Result<()> {
        let moments = self.moments_of_all();
        let mut known = BTreeSet::from([STATE.to_owned(), TENSORS.to_owned()]);
        for (index, spec) in self.parameters.specs().iter().enumerate() {
            if moments.iter().all(|moment| moment.tensor != index) {
                known
                    .extend(self.moment_names.iter().map(|moment| moment_name(moment, &spec.name)));
            }
            known.insert(average_name(&spec.name));
            if checkpoint.has_compensations() {
                known.insert(compensation_name(&spec.name));
            }
        }
        known.extend(moments.into_iter().map(|moment| moment.name));
        let ours = checkpoint.entries.keys().filter(|name| name.starts_with(RESERVED));
        for name in ours.filter(|name| !name.starts_with(POLICY)) {
            if !known.contains(name) {
                return Err(invalid(format!("it has {name}, which is not known here")));
            }
        }
        Ok(())
    }

    /// The clocks of the trained tensors, with the settings that they have here. That of a tensor
    /// which was frozen starts again.
    fn tensors_of(&self, checkpoint: &Checkpoint, applied_total: u32) -> Result<Vec<TensorState>> {
        let theirs = checkpoint.origin.trained();
        let stored: Vec<TensorState> =
            checkpoint.structs(TENSORS, TensorState::FIELDS, theirs.len())?;
        for (name, stored) in theirs.iter().zip(&stored) {
            check_tensor(name, stored, applied_total)?;
        }
        let mut tensors = self.settings.initial_tensors(&self.parameters)?;
        for (spec, tensor) in self.parameters.trained().iter().zip(&mut tensors) {
            let TensorState { weight_decay, learning_rate, .. } = *tensor;
            if let Some(row) = theirs.iter().position(|&name| name == spec.name) {
                *tensor = TensorState { weight_decay, learning_rate, ..stored[row] };
            }
        }
        Ok(tensors)
    }

    /// The averages of the trained weights: of a tensor that has none, the weight.
    fn averages_from(&self, checkpoint: &Checkpoint) -> Result<Vec<Write>> {
        let Some(average) = &self.average else { return Ok(Vec::new()) };
        let mut writes = Vec::new();
        for (index, spec) in self.parameters.trained().iter().enumerate() {
            let kept = average_name(&spec.name);
            let has_average = checkpoint.entries.contains_key(&kept);
            let name = if has_average { &kept } else { &spec.name };
            let mut rest = checkpoint.floats(name, &spec.shape.dims)?;
            for (_, part) in average.slot(&self.parameters, index).parts() {
                let (dense, others) = rest.split_at(part.shape.count());
                let bytes = bytemuck::cast_slice(&part.shape.pad(dense)).to_vec();
                writes.push((part.buffer, part.offset, bytes));
                rest = others;
            }
        }
        Ok(writes)
    }

    /// What the policies remember: nothing, where the file has no memory of this size, or one that
    /// is of other tensors.
    fn memories_of(&self, checkpoint: &Checkpoint) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        let trained = self.parameters.trained().iter().map(|spec| spec.name.as_str());
        let has_same_tensors = checkpoint.origin.trained().into_iter().eq(trained);
        for active in &self.policies {
            let name = active.checkpoint_name();
            let mut memory = active.fresh_memory(self.tensor_count());
            if checkpoint.entries.contains_key(&name) {
                let stored = checkpoint.words(&name)?;
                if stored.len() == memory.len() && has_same_tensors {
                    if !active.policy.accepts_memory(stored) {
                        let reason = format!("{name} is not what such a policy remembers");
                        return Err(invalid(reason));
                    }
                    memory = stored.to_vec();
                }
            }
            let bytes = bytemuck::cast_slice(&memory).to_vec();
            writes.push((active.memory.clone(), 0, bytes));
        }
        Ok(writes)
    }
}
