//! Everything a run needs to go on exactly where it was, on the host, as a safetensors file.
//!
//! Parameters and states are stored under their own names, dense, as any other program would write
//! them; what only a trainer needs lies beside them under names that begin with `evenkeel/`.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::host_copy::{Contents, HostCopy};
use super::{Model, Trainer, builder::build};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{ParameterSpec, Shape};
use crate::kernel::Field;
use crate::plan::parameters::Location;
use crate::plan::parts::Part;
use crate::step::{StepState, TensorState};

const FORMAT: &str = "evenkeel checkpoint 1";
const STATE: &str = "evenkeel/state";
const TENSORS: &str = "evenkeel/tensors";

/// One stored tensor: its shape, and its elements as bits of f32 or as u32.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    shape: Vec<usize>,
    is_float: bool,
    words: Vec<u32>,
}

/// A run at one step: weights, moments, states, counters, and what policies remember.
///
/// [`Trainer::checkpoint`] takes one and [`Trainer::restore`] goes back to it; the run goes on with
/// the same bits. What it does not hold are the data and where in them the run stood: the caller
/// has those, and [`steps`](Self::steps) says how many steps were taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    entries: BTreeMap<String, Entry>,
    info: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Steps submitted before it was taken, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.info.get("steps").and_then(|steps| steps.parse().ok()).unwrap_or(0)
    }

    /// Shape and elements of a parameter or state, dense, by its own name.
    pub fn tensor(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        let entry = self.entries.get(name).filter(|entry| entry.is_float)?;
        Some((&entry.shape, bytemuck::cast_slice(&entry.words).to_vec()))
    }

    /// Names of all parameters and states.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str).filter(|name| !name.starts_with("evenkeel/"))
    }

    /// The contents of a safetensors file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let views = self.entries.iter().map(|(name, entry)| {
            let dtype = if entry.is_float { Dtype::F32 } else { Dtype::U32 };
            let data = bytemuck::cast_slice(&entry.words);
            let view = TensorView::new(dtype, entry.shape.clone(), data);
            (name, view.expect("as many elements as the shape says"))
        });
        let info: HashMap<_, _> = self.info.clone().into_iter().collect();
        safetensors::serialize(views, Some(info)).expect("a valid header")
    }

    /// Reads the contents of a safetensors file that [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error: safetensors::SafeTensorError| invalid(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let info: BTreeMap<_, _> =
            metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        if info.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(invalid(format!("its format is {:?}, not {FORMAT:?}", info.get("format"))));
        }
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let mut entries = BTreeMap::new();
        for (name, view) in file.tensors() {
            let is_float = match view.dtype() {
                Dtype::F32 => true,
                Dtype::U32 => false,
                other => return Err(invalid(format!("{name} is {other:?}, not F32 or U32"))),
            };
            let words = bytemuck::pod_collect_to_vec(view.data());
            entries.insert(name, Entry { shape: view.shape().to_vec(), is_float, words });
        }
        Ok(Self { entries, info })
    }

    fn put_floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let words = bytemuck::cast_slice(values).to_vec();
        let entry = Entry { shape: shape.to_vec(), is_float: true, words };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Some rows of a tensor behind those before them.
    fn append_floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        match self.entries.get_mut(name) {
            Some(entry) => entry.words.extend_from_slice(bytemuck::cast_slice(values)),
            None => self.put_floats(name, shape, values),
        }
    }

    fn put_words(&mut self, name: &str, words: &[u32]) {
        let entry = Entry { shape: vec![words.len()], is_float: false, words: words.to_vec() };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Rows of a device struct, with the names of its fields.
    fn put_structs(&mut self, name: &str, fields: &[Field], words: &[u32]) {
        let names: Vec<_> = fields.iter().map(|field| field.name).collect();
        self.info.insert(name.to_owned(), names.join(" "));
        self.put_words(name, words);
    }

    fn words(&self, name: &str, count: usize) -> Result<&[u32]> {
        let entry = self.entries.get(name).ok_or_else(|| invalid(format!("it has no {name}")))?;
        if entry.words.len() != count {
            let found = entry.words.len();
            return Err(invalid(format!("{name} has {found} elements, the model needs {count}")));
        }
        Ok(&entry.words)
    }

    /// Rows of a device struct: fields go by their names, those it does not have stay zero.
    fn structs(&self, name: &str, fields: &[Field], rows: usize) -> Result<Vec<u32>> {
        let names: Vec<_> = self.info.get(name).map_or("", String::as_str).split(' ').collect();
        let stored = self.words(name, names.len() * rows)?;
        let mut words = vec![0; fields.len() * rows];
        for (row, out) in stored.chunks(names.len()).zip(words.chunks_mut(fields.len())) {
            for (field, word) in fields.iter().zip(out) {
                if let Some(column) = names.iter().position(|&name| name == field.name) {
                    *word = row[column];
                }
            }
        }
        Ok(words)
    }
}

/// What of a run's state the host has, not the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostState {
    pub steps: u64,
    pub seed: u32,
    pub learning_rate_factor: f32,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Checkpoint { reason: reason.into() }
}

/// The name of what an optimizer keeps for one parameter.
fn moment_name(moment: &str, parameter: &str) -> String {
    format!("evenkeel/moment/{moment}/{parameter}")
}

/// The name of an optimizer's buffer that is not laid out as the parameters are.
fn segment_name(moment: &str, segment: usize) -> String {
    format!("evenkeel/moment/{moment}/segment {segment}")
}

/// The name of what [`Bf16Kahan`](crate::WeightStorage::Bf16Kahan) keeps beside the weights.
fn compensation_name(parameter: &str) -> String {
    format!("evenkeel/compensation/{parameter}")
}

/// Elements of a flat buffer that belong to a tensor of this shape.
fn share(location: Location, shape: &Shape) -> std::ops::Range<usize> {
    let start = location.offset as usize / 4;
    start..start + 4 * shape.quads()
}

impl<M: Model> Trainer<M> {
    /// Everything the run needs to go on from here with the same bits. Waits for the device.
    /// [`TrainerBuilder::host_snapshots`](super::TrainerBuilder::host_snapshots) takes them without.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`].
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.gpu.check()?;
        let copy = HostCopy::new(&self.gpu, self.checkpointed()).await?;
        let staged = copy.read(&self.gpu).await?;
        Ok(self.assemble(self.host_state(), &copy.contents(&staged)))
    }

    /// The state the host holds, after the steps submitted so far.
    pub(super) fn host_state(&self) -> HostState {
        HostState {
            steps: self.attempted,
            seed: self.seed,
            learning_rate_factor: self.learning_rate_factor,
        }
    }

    /// The buffers a checkpoint is made of.
    pub(super) fn checkpointed(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        let weights = self.parameters.weights().iter().chain([self.parameters.committed()]);
        let moments = self.moments.iter().flatten();
        let memories = self.policies.iter().map(|active| &active.memory);
        weights.chain(moments).chain([&self.step.state, &self.tensors]).chain(memories)
    }

    /// Makes a checkpoint of what those buffers held.
    pub(super) fn assemble(&self, host: HostState, contents: &Contents<'_>) -> Checkpoint {
        let mut checkpoint = Checkpoint { entries: BTreeMap::new(), info: BTreeMap::new() };
        let mut info = |key: &str, value: String| checkpoint.info.insert(key.to_owned(), value);
        info("format", FORMAT.to_owned());
        info("steps", host.steps.to_string());
        info("seed", host.seed.to_string());
        info("learning rate factor", host.learning_rate_factor.to_string());
        for name in self.parameters.names() {
            let found = self.parameters.find(name).expect("one of its own names");
            let read = self.parameters.read_from(name, |buffer| contents.of(buffer));
            let (values, compensation) = read.expect("one of its own names");
            checkpoint.put_floats(name, &found.shape.dims, &values);
            if let Some(compensation) = compensation {
                let name = compensation_name(name);
                checkpoint.put_floats(&name, &found.shape.dims, &compensation);
            }
        }
        let words = |buffer| bytemuck::pod_collect_to_vec::<u8, u32>(contents.of(buffer));
        for (segment, buffers) in self.moments.iter().enumerate() {
            for (moment, buffer) in self.moment_names.iter().zip(buffers) {
                let flat = words(buffer);
                if !self.has_layout_of_parameters(segment, buffer) {
                    checkpoint.put_words(&segment_name(moment, segment), &flat);
                    continue;
                }
                for (spec, part) in self.segment_parts(segment) {
                    let shape = part.shape(&spec.shape);
                    let padded = bytemuck::cast_slice(&flat[share(part.location, &shape)]);
                    let name = moment_name(moment, &spec.name);
                    checkpoint.append_floats(&name, &spec.shape.dims, &shape.unpad(padded));
                }
            }
        }
        let rows = |buffer, fields: &[Field], rows| words(buffer)[..fields.len() * rows].to_vec();
        let state = rows(&self.step.state, StepState::FIELDS, 1);
        checkpoint.put_structs(STATE, StepState::FIELDS, &state);
        let tensors = rows(&self.tensors, TensorState::FIELDS, self.parameters.specs().len());
        checkpoint.put_structs(TENSORS, TensorState::FIELDS, &tensors);
        for active in &self.policies {
            checkpoint.put_words(&active.checkpoint_name(), &words(&active.memory));
        }
        checkpoint
    }

    /// Goes back to a checkpoint of a run of the same model, optimizer and policies; telemetry
    /// begins at its step. Nothing changes where something does not fit.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a checkpoint of another run, [`Error::DeviceLost`].
    pub async fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.gpu.check()?;
        let moments = self.moments_of(checkpoint)?;
        let rows = self.parameters.specs().len();
        let state = checkpoint.structs(STATE, StepState::FIELDS, 1)?;
        let tensors = checkpoint.structs(TENSORS, TensorState::FIELDS, rows)?;
        let mut memories = Vec::new();
        for active in &self.policies {
            let count = active.memory.size() as usize / 4;
            memories.push(checkpoint.words(&active.checkpoint_name(), count)?);
        }
        let mut values = Vec::new();
        for name in self.parameters.names() {
            let count = self.parameters.find(name)?.shape.count();
            let floats =
                |name: &str| checkpoint.words(name, count).map(bytemuck::cast_slice::<_, f32>);
            values.push((name, floats(name)?, floats(&compensation_name(name)).ok()));
        }

        for (name, values, compensation) in values {
            self.parameters.write(name, values)?;
            if let Some(compensation) = compensation {
                self.parameters.write_compensation(name, values, compensation)?;
            }
        }
        for (buffer, words) in moments {
            self.gpu.write(buffer, 0, bytemuck::cast_slice(&words));
        }
        for (active, words) in self.policies.iter().zip(memories) {
            self.gpu.write(&active.memory, 0, bytemuck::cast_slice(words));
        }
        self.gpu.write(&self.step.state, 0, bytemuck::cast_slice(&state));
        self.gpu.write(&self.tensors, 0, bytemuck::cast_slice(&tensors));
        let number = |key: &str| checkpoint.info.get(key).map_or("", String::as_str);
        self.attempted = checkpoint.steps();
        self.seed = number("seed").parse().unwrap_or(self.seed);
        self.learning_rate_factor = number("learning rate factor").parse().unwrap_or(1.0);
        self.ring.start_at(self.attempted);
        if let Some(watch) = &mut self.watch {
            watch.start_at(self.attempted);
        }
        self.gave_up = None;
        if let Some(snapshots) = &mut self.host_snapshots {
            snapshots.restart(checkpoint);
        }
        Ok(())
    }

    /// The last state of the run that the host has, as [`checkpoint`](Self::checkpoint) would have
    /// given it at that step, bit by bit; see
    /// [`TrainerBuilder::host_snapshots`](super::TrainerBuilder::host_snapshots). It is there after
    /// the device is lost, too. `None` before the first one has arrived, and where none are taken.
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

    /// The contents of every moment buffer.
    fn moments_of(&self, checkpoint: &Checkpoint) -> Result<Vec<(&wgpu::Buffer, Vec<u32>)>> {
        let mut contents = Vec::new();
        for (segment, buffers) in self.moments.iter().enumerate() {
            for (moment, buffer) in self.moment_names.iter().zip(buffers) {
                let count = buffer.size() as usize / 4;
                if !self.has_layout_of_parameters(segment, buffer) {
                    let words = checkpoint.words(&segment_name(moment, segment), count)?;
                    contents.push((buffer, words.to_vec()));
                    continue;
                }
                let mut flat = vec![0; count];
                for (spec, part) in self.segment_parts(segment) {
                    let name = moment_name(moment, &spec.name);
                    let dense = checkpoint.words(&name, spec.shape.count())?;
                    let shape = part.shape(&spec.shape);
                    let first = part.rows.start * (spec.shape.count() / spec.shape.dims[0]);
                    let rows = &dense[first..first + shape.count()];
                    let padded = shape.pad(bytemuck::cast_slice(rows));
                    flat[share(part.location, &shape)]
                        .copy_from_slice(bytemuck::cast_slice(&padded));
                }
                contents.push((buffer, flat));
            }
        }
        Ok(contents)
    }

    /// Whether a moment buffer of a segment has an f32 for each element of the gradient.
    fn has_layout_of_parameters(&self, segment: usize, moment: &wgpu::Buffer) -> bool {
        moment.size() == self.sinks.gradients[segment].size()
    }

    /// The parameters in a segment, whole or in part.
    fn segment_parts(&self, segment: usize) -> impl Iterator<Item = (&ParameterSpec, &Part)> {
        let parts = self.parameters.parts().filter(move |p| p.location.segment == segment);
        parts.map(|part| (&self.parameters.specs()[part.tensor], part))
    }
}
