//! Everything a run needs to go on exactly where it was, on the host, as a safetensors file.
//!
//! Parameters and states are stored under their own names, dense, as any other program would write
//! them; what only a trainer needs lies beside them under names that begin with `evenkeel/`.

mod check;
mod file;
#[cfg(not(target_arch = "wasm32"))]
mod mend;
mod moments;
mod restore;
mod save;
mod shards;
mod trained;

use std::collections::BTreeMap;

pub use trained::FrozenFingerprint;
pub(super) use trained::Hash;

use crate::error::{Error, Result};
use crate::kernel::Field;

/// Names of what only a trainer needs begin with it.
const RESERVED: &str = "evenkeel/";
const STATE: &str = "evenkeel/state";
const TENSORS: &str = "evenkeel/tensors";
const POLICY: &str = "evenkeel/policy/";
const AVERAGE: &str = "evenkeel/average/";
const MOMENT: &str = "evenkeel/moment/";
const COMPENSATION: &str = "evenkeel/compensation/";

/// One stored tensor: its shape, and its elements as bits of f32 or as u32.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    shape: Vec<usize>,
    is_float: bool,
    words: Vec<u32>,
}

/// A run at one step: weights, moments, averages, states, counters, and what policies remember.
///
/// [`Trainer::checkpoint`] takes one and [`Trainer::restore`] goes back to it; the run goes on with
/// the same bits. What it does not hold are the data and where in them the run stood: the caller
/// has those, and [`steps`](Self::steps) says how many steps were taken. It is a value of its own:
/// nothing that the run does later changes it.
///
#[doc = include_str!("checkpoints.md")]
///
/// [`Trainer::checkpoint`]: super::Trainer::checkpoint
/// [`Trainer::restore`]: super::Trainer::restore
/// [`Trainer::restore_weights`]: super::Trainer::restore_weights
/// [`Trainer::checkpoint_of_trained`]: super::Trainer::checkpoint_of_trained
/// [`Trainer::restore_trained`]: super::Trainer::restore_trained
/// [`Trainer::steps`]: super::Trainer::steps
/// [`Trainer::seed`]: super::Trainer::seed
/// [`Trainer::set_learning_rate_factor`]: super::Trainer::set_learning_rate_factor
/// [`TrainerBuilder`]: super::TrainerBuilder
/// [`TensorState`]: crate::step::TensorState
/// [`StepState`]: crate::step::StepState
/// [`LossScale`]: super::LossScale
/// [`Schedule`]: super::Schedule
/// [`SnapshotRing`]: super::SnapshotRing
/// [`WeightStorage`]: crate::WeightStorage
/// [`Bf16Kahan`]: crate::WeightStorage::Bf16Kahan
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    entries: BTreeMap<String, Entry>,
    origin: Origin,
    /// What who saves it wants to know again.
    notes: BTreeMap<String, String>,
}

/// What of a run's state the host has, not the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HostState {
    pub steps: u64,
    pub seed: u32,
    pub learning_rate_factor: f32,
}

/// Which run a checkpoint is of, beside its tensors. Lists of names have one to a line.
#[derive(Clone, Debug, PartialEq)]
struct Origin {
    host: HostState,
    /// What the model says of itself.
    model: String,
    optimizer: String,
    /// Names of what the optimizer keeps.
    moments: String,
    /// The storage of weights.
    weights: String,
    /// Whether the loss scale moved.
    has_dynamic_scale: bool,
    /// Names of the parameters in the order of the model.
    parameters: String,
    /// Names of the frozen ones among them.
    frozen: String,
    /// What those are known again by, where they are not in it.
    frozen_fingerprint: Option<String>,
    /// The rank whose moments alone it has, and what it keeps of a sharded optimizer.
    shard: Option<String>,
    /// Names of the fields of each table of device structs.
    fields: BTreeMap<String, String>,
}

impl Origin {
    /// Names of the trained parameters, in the order of the model and of the tensor table.
    fn trained(&self) -> Vec<&str> {
        let is_frozen = |name: &&str| self.frozen.lines().any(|frozen| frozen == *name);
        self.parameters.lines().filter(|name| !is_frozen(name)).collect()
    }
}

impl Checkpoint {
    /// Steps submitted before it was taken, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.origin.host.steps
    }

    /// Shape and elements of a parameter or state, dense, by its own name. `None` for a parameter in
    /// blocks: of that there are the blocks, which
    /// [`Trainer::restore`](super::Trainer::restore) reads.
    pub fn tensor(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        let entry = self.entries.get(name).filter(|entry| entry.is_float)?;
        Some((&entry.shape, bytemuck::cast_slice(&entry.words).to_vec()))
    }

    /// Shape and elements of the [average](super::Ema) of a parameter, dense; `None` where none was
    /// kept.
    pub fn average(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        self.tensor(&average_name(name))
    }

    /// Names of all parameters and states.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str).filter(|name| !name.starts_with(RESERVED))
    }

    /// With a text of your own under a name of your own: which data the run learns from, say. Its
    /// file has it among its metadata.
    #[must_use]
    pub fn with_note(mut self, name: &str, text: impl Into<String>) -> Self {
        self.notes.insert(name.to_owned(), text.into());
        self
    }

    /// The text under such a name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    fn put_floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let words = bytemuck::cast_slice(values).to_vec();
        let entry = Entry { shape: shape.to_vec(), is_float: true, words };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Some rows of a tensor, behind those before them.
    fn append_floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let Some(entry) = self.entries.get_mut(name) else {
            return self.put_floats(name, shape, values);
        };
        entry.shape[0] += shape[0];
        entry.words.extend_from_slice(bytemuck::cast_slice(values));
    }

    fn put_words(&mut self, name: &str, words: &[u32]) {
        let entry = Entry { shape: vec![words.len()], is_float: false, words: words.to_vec() };
        self.entries.insert(name.to_owned(), entry);
    }

    /// Bytes, with zeros to a whole word.
    fn put_bytes(&mut self, name: &str, mut bytes: Vec<u8>) {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        self.put_words(name, &words.collect::<Vec<_>>());
    }

    /// Rows of a device struct, with the names of its fields.
    fn put_structs(&mut self, name: &str, fields: &[Field], words: &[u32]) {
        let names = list(fields.iter().map(|field| field.name));
        self.origin.fields.insert(name.to_owned(), names);
        self.put_words(name, words);
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| invalid(format!("it has no {name}")))
    }

    /// A tensor of finite numbers and this shape.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        let entry = self.entry(name)?;
        if !entry.is_float {
            return Err(invalid(format!("{name} is U32 in it, and F32 here")));
        }
        if entry.shape != shape {
            return Err(invalid(format!(
                "{name} has the shape {:?} in it, and {shape:?} here; build the model as it was",
                entry.shape
            )));
        }
        entry.check_finite(name)?;
        Ok(bytemuck::cast_slice(&entry.words))
    }

    /// A list of u32, of any length.
    fn words(&self, name: &str) -> Result<&[u32]> {
        let entry = self.entry(name)?;
        if entry.is_float || entry.shape != [entry.words.len()] {
            return Err(invalid(format!("{name} is not a list of U32")));
        }
        Ok(&entry.words)
    }

    /// So many bytes, with zeros to a whole word.
    fn bytes(&self, name: &str, count: usize) -> Result<Vec<u8>> {
        let words = self.words(name)?;
        if words.len() != count.div_ceil(4) {
            let (found, wanted) = (words.len(), count.div_ceil(4));
            let reason = format!("{name} has {found} words of blocks in it, and {wanted} here");
            return Err(invalid(reason));
        }
        Ok(words.iter().flat_map(|word| word.to_le_bytes()).take(count).collect())
    }

    /// Rows of a device struct, whose fields go by their names.
    fn structs<T: bytemuck::Pod>(
        &self,
        name: &str,
        fields: &[Field],
        rows: usize,
    ) -> Result<Vec<T>> {
        let names: Vec<_> =
            self.origin.fields.get(name).map_or("", |names| names).lines().collect();
        let stored = self.words(name)?;
        if stored.len() != names.len() * rows {
            let (found, columns) = (stored.len(), names.len());
            let reason = format!("{name} has {found} words, not {rows} rows of {columns}");
            return Err(invalid(reason));
        }
        let column = |field: &Field| {
            let column = names.iter().position(|&name| name == field.name);
            column.ok_or_else(|| invalid(format!("{name} has no field {}", field.name)))
        };
        let columns = fields.iter().map(column).collect::<Result<Vec<_>>>()?;
        let rows = stored.chunks(names.len()).flat_map(|row| columns.iter().map(|&c| row[c]));
        Ok(bytemuck::pod_collect_to_vec(&rows.collect::<Vec<u32>>()))
    }
}

impl Entry {
    fn check_finite(&self, name: &str) -> Result<()> {
        let values: &[f32] = bytemuck::cast_slice(&self.words);
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) if self.is_float => Err(invalid(format!(
                "{name} holds {} at index {index}; go back to an earlier one",
                values[index]
            ))),
            _ => Ok(()),
        }
    }
}

/// Names, one to a line.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join("\n")
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Checkpoint { reason: reason.into() }
}

/// The name of what an optimizer keeps for one parameter.
fn moment_name(moment: &str, parameter: &str) -> String {
    format!("{MOMENT}{moment}/{parameter}")
}

/// The name of the average of a parameter.
fn average_name(parameter: &str) -> String {
    format!("{AVERAGE}{parameter}")
}

/// The name of what [`Bf16Kahan`](crate::WeightStorage::Bf16Kahan) keeps beside the weights.
fn compensation_name(parameter: &str) -> String {
    format!("{COMPENSATION}{parameter}")
}
