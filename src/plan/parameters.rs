//! Parameters and states on the device: flat buffers with one layout, read and written by name.
//!
//! All parameters lie one after the other in as few buffers ("segments") as the device's binding
//! limit allows, so one dispatch per segment serves them all: trained tensors first, frozen ones in
//! segments behind theirs. Gradients, moments and copies in another precision are further flat
//! buffers with the same layout, counted in quads: each tensor starts at a multiple of 32 quads,
//! which is one that a binding may have over halves as well. Gradients and moments are those of the
//! trained segments alone. A tensor that is larger than a binding lies in parts of whole rows, one
//! after the other.
//!
//! A [`WeightStorage`] that keeps something beside the weights has it in the second half of the same
//! buffer, again with this layout, so that the first half is what kernels compute with.

mod trained;

use std::collections::HashSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::gpu::{ALIGNMENT, Gpu};
use crate::graph::{Element, Graph, ParameterSpec, Shape, StateSpec};
use crate::init::Draw;
use crate::kernel::{Precision, WeightStorage};
use crate::kernels::{StoreWeights, StoreWeightsParams};
use crate::plan::parts::Part;
use crate::record::{Slot, to_u32};

/// Where a tensor lies in the flat buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// By parameter.
    parts: Vec<Vec<Part>>,
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
    /// [`Error::Limit`] for a vector larger than one binding and for a tensor with four rows that
    /// are, [`Error::OutOfMemory`].
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
        let specs = trained::in_order(specs);
        let (parts, segment_bytes, trained_segments) = trained::place(&specs, largest)?;
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
            parts,
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
        let slots: Vec<_> = (0..self.specs.len()).map(|index| self.slot(index)).collect();
        let parts = || slots.iter().flat_map(Slot::parts);
        let largest = parts().map(|(_, part)| part.shape.with(Element::Real).bytes()).max();
        let drawn = match self.storage {
            WeightStorage::F32 => None,
            _ => largest.map(|bytes| self.gpu.buffer("drawn weights", bytes)),
        };
        for (spec, slot) in self.specs.iter().zip(&slots) {
            let distribution = spec.init.resolve(&spec.shape.dims);
            for (first, part) in slot.parts() {
                let rows_per_entry = spec.shape.rows() / spec.shape.dims[0].max(1);
                let [first_row, rows, cols] =
                    [first * rows_per_entry, part.shape.rows(), part.shape.cols()].map(to_u32);
                let draw = Draw { first_row, rows, cols, seed, stream: spec.stream };
                let Some(drawn) = &drawn else {
                    distribution.write(&self.gpu, draw, part.binding());
                    continue;
                };
                let drawn = Slot::new(drawn.clone(), part.shape.with(Element::Real));
                distribution.write(&self.gpu, draw, drawn.binding());
                self.store(&part, &drawn);
            }
        }
        for (index, spec) in self.states.iter().enumerate() {
            let slot = self.state_slot(index);
            let cols = spec.shape.cols();
            let rows: Vec<f32> =
                spec.initial.iter().flat_map(|&x| std::iter::repeat_n(x, cols)).collect();
            self.gpu.write(&slot.buffer, slot.offset, bytemuck::cast_slice(&slot.shape.pad(&rows)));
        }
    }

    /// Brings f32 values into the storage, where a parameter or a part of it lies.
    fn store(&self, to: &Slot, values: &Slot) {
        let store = StoreWeights {
            params: StoreWeightsParams {
                first: to_u32((to.offset / to.shape.precision.quad_bytes()) as usize),
                quads: to_u32(values.shape.quads()),
            },
            x: values.binding(),
            weight: to.buffer.as_entire_buffer_binding(),
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

    /// Where all parameters lie, in the order of the layout: whole, or in parts where the device
    /// has no binding for the whole.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flatten()
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

    /// What belongs to parameter `index` in flat buffers of the same layout, over f32.
    pub fn slot_in(&self, flat: &[wgpu::Buffer], index: usize, element: Element) -> Slot {
        self.slot_over(flat, index, self.specs[index].shape.with(element))
    }

    /// What belongs to the copy of parameter `index` in another precision, in flat buffers of such
    /// copies.
    pub fn copy_slot_in(&self, flat: &[wgpu::Buffer], index: usize, precision: Precision) -> Slot {
        self.slot_over(flat, index, self.specs[index].shape.stored_as(precision))
    }

    fn slot_over(&self, flat: &[wgpu::Buffer], index: usize, shape: Shape) -> Slot {
        let parts = self.parts[index].iter().map(|part| {
            let Location { segment, offset } = part.location;
            let offset = offset * shape.precision.quad_bytes() / Precision::F32.quad_bytes();
            Slot::at(flat[segment].clone(), offset, part.shape(&shape))
        });
        Slot::joined(shape.clone(), parts.collect())
    }

    /// Where state `index` lies among the committed ones.
    pub fn state_slot(&self, index: usize) -> Slot {
        self.state_slot_in(&self.committed, index)
    }

    /// The part that belongs to state `index` in a flat buffer of the same layout.
    pub fn state_slot_in(&self, flat: &wgpu::Buffer, index: usize) -> Slot {
        let offset = self.state_locations[index].offset;
        Slot::at(flat.clone(), offset, self.states[index].shape.clone())
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
        let (mut values, mut compensation) = (Vec::new(), Vec::new());
        for (_, part) in slot.parts() {
            let all = contents(&part.buffer);
            let at = |offset: u64| &all[offset as usize..][..part.shape.bytes() as usize];
            let beside = if keeps_beside(storage) { at(beside_offset(&part)) } else { &[] };
            values.extend(part.shape.unpad(&storage.decode(at(part.offset), beside)));
            if storage == WeightStorage::Bf16Kahan {
                compensation.extend(part.shape.unpad(&part.shape.precision.decode(beside)));
            }
        }
        Ok((values, (storage == WeightStorage::Bf16Kahan).then_some(compensation)))
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
        let mut encoded = Vec::new();
        for (first, part) in slot.parts() {
            let (shape, elements) = (&part.shape, elements(&slot, first, &part));
            let encode =
                |dense: &[f32]| shape.precision.encode(&shape.pad(&dense[elements.clone()]));
            let [weights, beside] = [encode(&weights), encode(compensation)];
            let stored = shape.unpad(&WeightStorage::Bf16Kahan.decode(&weights, &beside));
            if stored != values[elements] {
                return Ok(None);
            }
            let beside_at = beside_offset(&part);
            encoded.push((part.buffer.clone(), part.offset, weights));
            encoded.push((part.buffer, beside_at, beside));
        }
        Ok(Some(encoded))
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
        let mut encoded = Vec::new();
        for (first, part) in slot.parts() {
            let elements = elements(&slot, first, &part);
            let dense = &data[elements.clone()];
            let [weights, beside] = storage.encode(&part.shape.pad(dense));
            let stored = part.shape.unpad(&storage.decode(&weights, &beside));
            if let Some(index) = stored.iter().position(|x| !x.is_finite()) {
                return Err(Error::NonFinite {
                    what: format!("the new value of {name}"),
                    index: elements.start + index,
                    value: dense[index],
                    advice: "training cannot start from it; check where the values come from"
                        .into(),
                });
            }
            encoded.push((part.buffer.clone(), part.offset, weights));
            if !beside.is_empty() {
                encoded.push((part.buffer.clone(), beside_offset(&part), beside));
            }
        }
        Ok(encoded)
    }

    /// Reads a parameter or state, dense, row-major: of a parameter all that the storage knows, so
    /// the exact f32 of [`WeightStorage::Bf16Split`], and weight and compensation together of
    /// [`WeightStorage::Bf16Kahan`]. Waits for the device.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DeviceLost`].
    pub async fn read(&self, name: &str) -> Result<Vec<f32>> {
        let (slot, storage) = (self.find(name)?, self.storage_of(name));
        let mut values = Vec::with_capacity(slot.shape.count());
        for (_, part) in slot.parts() {
            let bytes = part.shape.bytes() as usize;
            let weights = self.gpu.read(&part.buffer, part.offset, bytes).await?;
            let beside = if keeps_beside(storage) {
                self.gpu.read(&part.buffer, beside_offset(&part), bytes).await?
            } else {
                Vec::new()
            };
            values.extend(part.shape.unpad(&storage.decode(&weights, &beside)));
        }
        Ok(values)
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

/// The elements of a dense tensor in the part that begins with row `first`.
fn elements(whole: &Slot, first: usize, part: &Slot) -> Range<usize> {
    let start = first * (whole.shape.count() / whole.shape.dims[0]);
    start..start + part.shape.count()
}

/// Where what is kept beside the weights in a slot begins: as far into the second half of the
/// buffer.
fn beside_offset(slot: &Slot) -> u64 {
    slot.buffer.size() / 2 + slot.offset
}

/// Reads one slot of values that are not u32, dense.
pub async fn read_slot(gpu: &Gpu, slot: &Slot) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(slot.shape.count());
    for (_, part) in slot.parts() {
        let bytes = gpu.read(&part.buffer, part.offset, part.shape.bytes() as usize).await?;
        values.extend(part.shape.unpad(&part.shape.precision.decode(&bytes)));
    }
    Ok(values)
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
            "at this width {rows} rows fit: lower the batch or the context of a microbatch, and \
             accumulate over more of them, or lower the vocabulary"
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
