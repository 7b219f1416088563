//! Where the tensors of a model lie in their buffers, and how many bytes these have: known before
//! there is any of them.

use super::super::layout::{Location, layout};
use super::blocks::check_frozen;
use super::trained::{self, Placed, count_in_quads, trained_count};
use crate::error::{Error, Result};
use crate::graph::{ParameterSpec, StateSpec};
use crate::kernel::{Precision, WeightStorage};
use crate::plan::parts::Part;

/// Where the tensors of a model lie: what [`Parameters`](super::Parameters) are laid out by, which
/// takes no memory on the device.
#[derive(Clone, Debug)]
pub struct ParameterLayout {
    pub(super) specs: Vec<ParameterSpec>,
    pub(super) states: Vec<StateSpec>,
    /// By parameter.
    pub(super) parts: Vec<Vec<Part>>,
    pub(super) state_locations: Vec<Location>,
    pub(super) storage: WeightStorage,
    /// Quads of each segment.
    pub(super) segments: Vec<u64>,
    /// The first ones, which hold the trained tensors.
    pub(super) trained_segments: usize,
    /// Bytes of each buffer of weights in blocks.
    block_segments: Vec<u64>,
    /// Bytes of the buffer of states.
    state_bytes: u64,
}

impl ParameterLayout {
    /// The layout of these tensors, where a binding holds `largest` bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] for a vector larger than one binding and for a tensor with four rows that
    /// are, [`Error::Unsupported`] for weights in blocks that are to be trained.
    pub fn new(
        specs: &[ParameterSpec],
        states: &[StateSpec],
        storage: WeightStorage,
        largest: u64,
    ) -> Result<Self> {
        check_frozen(specs)?;
        let specs = trained::in_order(specs);
        let Placed { parts, segments, trained_segments, block_segments } =
            trained::place(&specs, largest)?;
        let segments = segments.iter().map(|bytes| bytes / Precision::F32.quad_bytes()).collect();
        let state_sizes = states.iter().map(|spec| spec.shape.bytes());
        let (state_locations, state_segments) = layout(state_sizes, u64::MAX);
        let state_bytes = state_segments[0];
        if state_bytes > largest {
            return Err(Error::Limit {
                what: "the states of the model".into(),
                limit: "maxStorageBufferBindingSize",
                needed: state_bytes,
                available: largest,
                advice: "use fewer or smaller normalisation layers".into(),
            });
        }
        Ok(Self {
            specs,
            states: states.to_vec(),
            parts,
            state_locations,
            storage,
            segments,
            trained_segments,
            block_segments,
            state_bytes,
        })
    }

    /// The layout of the same tensors, of which those are trained that `is_trained` says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_trained(
        &self,
        is_trained: impl Fn(&ParameterSpec) -> bool,
        largest: u64,
    ) -> Result<Self> {
        let specs = self.specs.iter().cloned();
        let specs: Vec<_> =
            specs.map(|spec| ParameterSpec { requires_grad: is_trained(&spec), ..spec }).collect();
        if specs == self.specs {
            return Ok(self.clone());
        }
        Self::new(&specs, &self.states, self.storage, largest)
    }

    /// The parameters, in the order of the layout: that of the model, trained ones first.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// The states, in the order of the layout.
    pub fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// The trained tensors: the first of [`specs`](Self::specs).
    pub fn trained(&self) -> &[ParameterSpec] {
        &self.specs[..trained_count(&self.specs)]
    }

    /// The frozen tensors: the rest of [`specs`](Self::specs).
    pub fn frozen(&self) -> &[ParameterSpec] {
        &self.specs[trained_count(&self.specs)..]
    }

    /// Names of all parameters, then of all states.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parameters = self.specs.iter().map(|spec| spec.name.as_str());
        parameters.chain(self.states.iter().flat_map(|spec| &spec.names).map(String::as_str))
    }

    /// Where all parameters but those in blocks lie, in the order of the layout.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts[..count_in_quads(&self.specs)].iter().flatten()
    }

    /// The parts of parameter `index`: one where a binding holds it.
    pub fn parts_of(&self, index: usize) -> &[Part] {
        &self.parts[index]
    }

    /// Whether parameter `index` lies in more than one part.
    pub fn is_in_parts(&self, index: usize) -> bool {
        self.parts[index].len() > 1
    }

    /// How the optimizer holds the weights.
    pub fn storage(&self) -> WeightStorage {
        self.storage
    }

    /// The size of each segment in quads.
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Quads of each segment of trained tensors: the first of [`segments`](Self::segments).
    pub fn trained_segments(&self) -> &[u64] {
        &self.segments[..self.trained_segments]
    }

    /// Bytes of the buffers of weights, one for each segment.
    pub fn weight_bytes(&self) -> impl Iterator<Item = u64> {
        self.segments.iter().map(|quads| quads * self.storage.quad_bytes())
    }

    /// Bytes of the buffers of weights in blocks.
    pub fn block_bytes(&self) -> &[u64] {
        &self.block_segments
    }

    /// Bytes of the buffer of states.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }
}
