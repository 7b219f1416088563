//! Parameters and states on the device: flat buffers with one layout, read and written by name.
//!
//! All parameters lie one after the other in as few buffers ("segments") as the device's binding
//! limit allows, so one dispatch per segment serves them all: trained tensors first, frozen ones in
//! segments behind theirs. Gradients, moments and copies in another precision are further flat
//! buffers with the same layout, counted in quads: each tensor starts at a multiple of 32 quads,
//! which is one that a binding may have over halves as well. Gradients and moments are those of the
//! trained segments alone.
//!
//! A [`WeightStorage`] that keeps something beside the weights has it in the second half of the same
//! buffer, again with this layout, so that the first half is what kernels compute with.

mod trained;

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::gpu::{ALIGNMENT, Gpu};
use crate::graph::{Element, Graph, ParameterSpec, Shape, StateSpec};
use crate::init::Draw;
use crate::kernel::{Precision, WeightStorage};
use crate::kernels::{StoreWeights, StoreWeightsParams};
use crate::record::{Slot, to_u32};

/// Where a tensor lies in the flat buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Index of the segment.
    pub segment: usize,
    /// First byte in the segment over f32, a multiple of 512; half of it over halves.
    pub offset: u64,
}

/// Places tensors of the given sizes in bytes, in order, in segments of at most `largest` bytes.
/// Returns the locations and the bytes of each segment.
pub fn layout(sizes: impl IntoIterator<Item = u64>, largest: u64) -> (Vec<Location>, Vec<u64>) {
    let (mut locations, mut segments) = (Vec::new(), vec![0u64]);
    for size in sizes {
        let size = size.next_multiple_of(2 * ALIGNMENT);
        if segments[segments.len() - 1] + size > largest && segments[segments.len() - 1] > 0 {
            segments.push(0);
        }
        let segment = segments.len() - 1;
        locations.push(Location { segment, offset: segments[segment] });
        segments[segment] += size;
    }
    (locations, segments)
}

/// Where bytes of a parameter or state go.
pub(crate) type Encoded = (wgpu::Buffer, u64, Vec<u8>);

/// The parameters, trained and frozen, and the kept states of a model, by name.
///
/// They are the buffers themselves: training changes what a reference to a trainer's parameters
/// reads. So there is no `Clone`, which would only be another name for the same buffers; what is to
/// stay as it is takes a [`copy`](Self::copy), or a
/// [`Checkpoint`](crate::train::Checkpoint) on the host.
///
/// ```compile_fail
/// fn snapshot(parameters: &evenkeel::plan::Parameters) -> evenkeel::plan::Parameters {
///     parameters.clone()
/// }
/// ```
#[derive(Debug)]
pub struct Parameters {
    gpu: Gpu,
    specs: Vec<ParameterSpec>,
    states: Vec<StateSpec>,
    locations: Vec<Location>,
    state_locations: Vec<Location>,
    storage: WeightStorage,
    /// Quads of each segment.
    segments: Vec<u64>,
    /// The first ones, which hold the trained tensors.
    trained_segments: usize,
    weights: Vec<wgpu::Buffer>,
    committed: wgpu::Buffer,
}

impl Parameters {
    /// Allocates and initialises the parameters and states of a graph, in the storage that the
    /// graph has them in.
    ///
    /// # Errors
    /// [`Error::Limit`] for a tensor larger than one binding, [`Error::OutOfMemory`].
    pub async fn new(gpu: &Gpu, graph: &Graph, seed: u32) -> Result<Self> {
        let (specs, states) = (graph.parameters(), graph.states());
        let parameters = Self::allocate(gpu, specs, states, graph.weights()).await?;
        parameters.initialize(seed);
        Ok(parameters)
    }

    /// The same tensors on another device, zeroed.
    pub(crate) async fn zeroed_on(&self, gpu: &Gpu) -> Result<Self> {
        Self::allocate(gpu, &self.specs, &self.states, self.storage).await
    }

    /// The same values in buffers of their own, on the same device, as they are after all that was
    /// submitted. What becomes of either from here on leaves the other alone: averages of weights,
    /// the best of a run, a second trainer.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub async fn copy(&self) -> Result<Self> {
        let copy = self.zeroed_on(&self.gpu).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let from = self.weights.iter().chain([&self.committed]);
        for (from, to) in from.zip(copy.weights.iter().chain([&copy.committed])) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
        self.gpu.submit(encoder);
        Ok(copy)
    }

    async fn allocate(
        gpu: &Gpu,
        specs: &[ParameterSpec],
        states: &[StateSpec],
        storage: WeightStorage,
    ) -> Result<Self> {
        let largest = gpu.largest_binding();
        for spec in specs {
            check_binding(gpu, &format!("parameter {}", spec.name), &spec.shape)?;
        }
        let specs = trained::in_order(specs);
        let (locations, segment_bytes, trained_segments) = trained::place(&specs, largest);
        let segments: Vec<_> =
            segment_bytes.iter().map(|bytes| bytes / Precision::F32.quad_bytes()).collect();
        let weight_bytes: Vec<_> = segments.iter().map(|q| q * storage.quad_bytes()).collect();
        let state_sizes = states.iter().map(|spec| spec.shape.bytes());
        let (state_locations, state_segments) = layout(state_sizes, u64::MAX);
        let total: u64 = weight_bytes.iter().sum::<u64>() + state_segments[0];
        if state_segments[0] > largest {
            return Err(Error::Limit {
                what: "the states of the model".into(),
                limit: "maxStorageBufferBindingSize",
                needed: state_segments[0],
                available: largest,
                advice: "use fewer or smaller normalisation layers".into(),
            });
        }
        let (weights, committed) = allocate(gpu, "the parameters", total, || {
            let weights = weight_bytes.iter().map(|&b| gpu.buffer("weights", b)).collect();
            (weights, gpu.buffer("states", state_segments[0]))
        })
        .await?;
        Ok(Self {
            gpu: gpu.clone(),
            specs,
            states: states.to_vec(),
            locations,
            state_locations,
            storage,
            segments,
            trained_segments,
            weights,
            committed,
        })
    }

    /// Gives every parameter and state its initial value; parameters are drawn on the device, in
    /// f32, and rounded to nearest where the storage rounds.
    pub fn initialize(&self, seed: u32) {
        // Drawn where they stay, or one after the other in a buffer for the largest.
        let largest = self.specs.iter().map(|spec| spec.shape.bytes()).max();
        let drawn = match self.storage {
            WeightStorage::F32 => None,
            _ => largest.map(|bytes| self.gpu.buffer("drawn weights", bytes)),
        };
        for (index, spec) in self.specs.iter().enumerate() {
            let distribution = spec.init.resolve(&spec.shape.dims);
            let [rows, cols] = [spec.shape.rows(), spec.shape.cols()].map(to_u32);
            let draw = Draw { rows, cols, seed, stream: spec.stream };
            let Some(drawn) = &drawn else {
                distribution.write(&self.gpu, draw, self.slot(index).binding());
                continue;
            };
            let drawn = Slot::new(drawn.clone(), spec.shape.clone());
            distribution.write(&self.gpu, draw, drawn.binding());
            self.store(index, &drawn);
        }
        for (index, spec) in self.states.iter().enumerate() {
            let slot = self.state_slot(index);
            let cols = spec.shape.cols();
            let rows: Vec<f32> =
                spec.initial.iter().flat_map(|&x| std::iter::repeat_n(x, cols)).collect();
            self.gpu.write(&slot.buffer, slot.offset, bytemuck::cast_slice(&slot.shape.pad(&rows)));
        }
    }

    /// Brings the f32 values of one parameter into the storage.
    fn store(&self, index: usize, values: &Slot) {
        let Location { segment, offset } = self.locations[index];
        let store = StoreWeights {
            params: StoreWeightsParams {
                first: to_u32((offset / Precision::F32.quad_bytes()) as usize),
                quads: to_u32(values.shape.quads()),
            },
            x: values.binding(),
            weight: self.weights[segment].as_entire_buffer_binding(),
        };
        self.gpu.run_as(&store, self.storage);
    }

    /// The parameters, in the order of the layout: that of the model, trained ones first.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// The states, in the order of the layout.
    pub fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// Names of all parameters, then of all states.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parameters = self.specs.iter().map(|spec| spec.name.as_str());
        parameters.chain(self.states.iter().flat_map(|spec| &spec.names).map(String::as_str))
    }

    /// Number of elements of all parameters, without padding.
    pub fn count(&self) -> usize {
        self.specs.iter().map(|spec| spec.shape.count()).sum()
    }

    /// Elements of padding between the rows of all parameters.
    pub fn padding(&self) -> u32 {
        padding(&self.specs)
    }

    /// Where each parameter lies.
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// How the optimizer holds the weights.
    pub fn storage(&self) -> WeightStorage {
        self.storage
    }

    /// The size of each segment in quads.
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// The flat buffers of weights, one per segment, in the [`storage`](Self::storage). Kernels that
    /// see them as f32 join the fragment [`WEIGHT_F32`](crate::kernel::shared::WEIGHT_F32) and are
    /// recorded for this storage.
    pub fn weights(&self) -> &[wgpu::Buffer] {
        &self.weights
    }

    /// The flat buffer of committed states.
    pub fn committed(&self) -> &wgpu::Buffer {
        &self.committed
    }

    /// Where the weights of parameter `index` lie that kernels compute with, in the precision of
    /// the [`storage`](Self::storage).
    pub fn slot(&self, index: usize) -> Slot {
        self.copy_slot_in(&self.weights, index, self.storage.precision())
    }

    /// The part that belongs to parameter `index` in flat buffers of the same layout, over f32.
    pub fn slot_in(&self, flat: &[wgpu::Buffer], index: usize, element: Element) -> Slot {
        let Location { segment, offset } = self.locations[index];
        let shape = self.specs[index].shape.with(element);
        Slot { buffer: flat[segment].clone(), offset, shape, accumulate: false }
    }

    /// The part that belongs to the copy of parameter `index` in another precision, in flat
    /// buffers of such copies.
    pub fn copy_slot_in(&self, flat: &[wgpu::Buffer], index: usize, precision: Precision) -> Slot {
        let slot = self.slot_in(flat, index, Element::Real);
        let offset = slot.offset * precision.quad_bytes() / Precision::F32.quad_bytes();
        Slot { offset, shape: slot.shape.stored_as(precision), ..slot }
    }

    /// Where state `index` lies among the committed ones.
    pub fn state_slot(&self, index: usize) -> Slot {
        self.state_slot_in(&self.committed, index)
    }

    /// The part that belongs to state `index` in a flat buffer of the same layout.
    pub fn state_slot_in(&self, flat: &wgpu::Buffer, index: usize) -> Slot {
        let offset = self.state_locations[index].offset;
        let shape = self.states[index].shape.clone();
        Slot { buffer: flat.clone(), offset, shape, accumulate: false }
    }

    /// The slot of the parameter or state with this name; see [`slot`](Self::slot).
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn find(&self, name: &str) -> Result<Slot> {
        if let Some(index) = self.position(name) {
            return Ok(self.slot(index));
        }
        for (index, spec) in self.states.iter().enumerate() {
            if let Some(row) = spec.names.iter().position(|row| row == name) {
                return Ok(self.state_slot(index).row(row));
            }
        }
        Err(Error::UnknownName {
            kind: "parameter or state",
            name: name.to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// A parameter or state as [`read`](Self::read) gives it, of buffers whose contents are on the
    /// host, and what [`WeightStorage::Bf16Kahan`] keeps beside a parameter; none in other storages,
    /// and none of a state.
    pub(crate) fn read_from<'a>(
        &self,
        name: &str,
        contents: impl Fn(&wgpu::Buffer) -> &'a [u8],
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let (slot, storage) = (self.find(name)?, self.storage_of(name));
        let all = contents(&slot.buffer);
        let at = |offset: u64| &all[offset as usize..][..slot.shape.bytes() as usize];
        let beside = if keeps_beside(storage) { at(beside_offset(&slot)) } else { &[] };
        let values = slot.shape.unpad(&storage.decode(at(slot.offset), beside));
        let compensation = (storage == WeightStorage::Bf16Kahan)
            .then(|| slot.shape.unpad(&slot.shape.precision.decode(beside)));
        Ok((values, compensation))
    }

    /// The very bits again that the values were made of which [`read`](Self::read) gave; as
    /// [`encode`](Self::encode), for a parameter. Storages without a compensation need none.
    /// `None` where the two do not belong together.
    pub(crate) fn encode_compensated(
        &self,
        name: &str,
        values: &[f32],
        compensation: &[f32],
    ) -> Result<Option<Vec<Encoded>>> {
        let slot = self.find(name)?;
        if self.storage_of(name) != WeightStorage::Bf16Kahan {
            return self.encode(name, values).map(Some);
        }
        // The sum was rounded to f32, far below the bf16 that is looked for.
        let weights: Vec<_> = values.iter().zip(compensation).map(|(v, c)| v - c).collect();
        let encode = |dense: &[f32]| slot.shape.precision.encode(&slot.shape.pad(dense));
        let [weights, beside] = [encode(&weights), encode(compensation)];
        let stored = slot.shape.unpad(&WeightStorage::Bf16Kahan.decode(&weights, &beside));
        let beside_at = beside_offset(&slot);
        Ok((stored == values).then(|| {
            vec![(slot.buffer.clone(), slot.offset, weights), (slot.buffer, beside_at, beside)]
        }))
    }

    /// States are f32.
    fn storage_of(&self, name: &str) -> WeightStorage {
        match self.position(name) {
            Some(_) => self.storage,
            None => WeightStorage::F32,
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }

    /// Writes a parameter or state, dense, row-major. The storage keeps of a parameter what it can;
    /// [`read`](Self::read) gives that back. On an error nothing is written.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::InputSize`], and [`Error::NonFinite`] for NaN or Inf, and
    /// for what the storage would make Inf of.
    pub fn write(&self, name: &str, data: &[f32]) -> Result<()> {
        for (buffer, offset, bytes) in self.encode(name, data)? {
            self.gpu.write(&buffer, offset, &bytes);
        }
        Ok(())
    }

    /// What [`write`](Self::write) writes.
    pub(crate) fn encode(&self, name: &str, data: &[f32]) -> Result<Vec<Encoded>> {
        let slot = self.find(name)?;
        if data.len() != slot.shape.count() {
            return Err(Error::InputSize {
                name: name.to_owned(),
                expected: slot.shape.count(),
                actual: data.len(),
                shape: slot.shape.to_string(),
            });
        }
        let storage = self.storage_of(name);
        let [weights, beside] = storage.encode(&slot.shape.pad(data));
        let stored = slot.shape.unpad(&storage.decode(&weights, &beside));
        if let Some(index) = stored.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite {
                what: format!("the new value of {name}"),
                index,
                value: data[index],
                advice: "training cannot start from it; check where the values come from".into(),
            });
        }
        let beside = (!beside.is_empty()).then(|| (beside_offset(&slot), beside));
        let parts = std::iter::once((slot.offset, weights)).chain(beside);
        Ok(parts.map(|(offset, bytes)| (slot.buffer.clone(), offset, bytes)).collect())
    }

    /// Reads a parameter or state, dense, row-major: of a parameter all that the storage knows, so
    /// the exact f32 of [`WeightStorage::Bf16Split`], and weight and compensation together of
    /// [`WeightStorage::Bf16Kahan`]. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DeviceLost`].
    pub async fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (slot, storage) = (self.find(name)?, self.storage_of(name));
        let bytes = slot.shape.bytes() as usize;
        let weights = self.gpu.read(&slot.buffer, slot.offset, bytes).await?;
        let beside = if keeps_beside(storage) {
            self.gpu.read(&slot.buffer, beside_offset(&slot), bytes).await?
        } else {
            Vec::new()
        };
        Ok(slot.shape.unpad(&storage.decode(&weights, &beside)))
    }

    /// Checks that a graph's parameters and states are among these, with the same shapes, and that
    /// it reads parameters in the precision they are stored in.
    pub(crate) fn index_of(&self, graph: &Graph) -> Result<(Vec<usize>, Vec<usize>)> {
        if graph.weights().precision() != self.storage.precision() {
            return Err(Error::Unsupported {
                what: format!(
                    "a graph over parameters in {}, where they are stored as {}",
                    graph.weights(),
                    self.storage
                ),
                instead: "build the graph with_weights(parameters.storage())".into(),
            });
        }
        let missing = |kind, name: &str| Error::UnknownName {
            kind,
            name: name.to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        };
        let parameters = graph.parameters().iter().map(|wanted| {
            let same = |p: &ParameterSpec| p.name == wanted.name && p.shape == wanted.shape;
            self.specs.iter().position(same).ok_or_else(|| missing("parameter", &wanted.name))
        });
        let states = graph.states().iter().map(|wanted| {
            let same = |s: &StateSpec| s.names == wanted.names && s.shape == wanted.shape;
            self.states.iter().position(same).ok_or_else(|| missing("state", &wanted.names[0]))
        });
        Ok((parameters.collect::<Result<_>>()?, states.collect::<Result<_>>()?))
    }

    /// Bytes of weights and states on the device.
    pub fn bytes(&self) -> u64 {
        self.weights.iter().map(wgpu::Buffer::size).sum::<u64>() + self.committed.size()
    }

    /// Panics if two parameters or states have the same name, or one that files have for others.
    pub(crate) fn assert_unique_names(&self) {
        let mut seen = HashSet::new();
        for name in self.names() {
            assert!(seen.insert(name), "{name:?} names both a parameter and a state");
            let is_reserved = name.starts_with("evenkeel/") || name == "__metadata__";
            assert!(!is_reserved, "checkpoints have {name:?} for something else");
        }
    }
}

/// Elements of padding between the rows of these tensors.
fn padding(specs: &[ParameterSpec]) -> u32 {
    to_u32(specs.iter().map(|spec| 4 * spec.shape.quads() - spec.shape.count()).sum())
}

fn keeps_beside(storage: WeightStorage) -> bool {
    !matches!(storage, WeightStorage::F32 | WeightStorage::Bf16Stochastic)
}

/// Where what is kept beside the weights in a slot begins: as far into the second half of the
/// buffer.
fn beside_offset(slot: &Slot) -> u64 {
    slot.buffer.size() / 2 + slot.offset
}

/// Reads one slot of values that are not u32, dense.
pub async fn read_slot(gpu: &Gpu, slot: &Slot) -> Result<Vec<f32>> {
    let bytes = gpu.read(&slot.buffer, slot.offset, slot.shape.bytes() as usize).await?;
    Ok(slot.shape.unpad(&slot.shape.precision.decode(&bytes)))
}

/// Fails if a tensor is too large to be bound.
pub fn check_binding(gpu: &Gpu, what: &str, shape: &Shape) -> Result<()> {
    let (needed, available) = (shape.bytes(), gpu.largest_binding());
    if needed <= available {
        return Ok(());
    }
    let row_bytes = shape.bytes() / shape.rows().max(1) as u64;
    let rows = available / row_bytes.max(1);
    Err(Error::Limit {
        what: format!("{what} of shape {shape}"),
        limit: "maxStorageBufferBindingSize (or maxBufferSize)",
        needed,
        available,
        advice: format!(
            "at this width {rows} rows fit: lower the batch, the context or the vocabulary"
        ),
    })
}

/// Runs `make` and turns a failed allocation, or a lost device, into an error.
pub async fn allocate<T>(gpu: &Gpu, what: &str, bytes: u64, make: impl FnOnce() -> T) -> Result<T> {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let made = make();
    match scope.pop().await {
        None => gpu.check().map(|()| made),
        Some(_) => Err(Error::OutOfMemory {
            what: what.to_owned(),
            bytes,
            advice: "lower the batch, the context, the width or the number of layers".into(),
        }),
    }
}
