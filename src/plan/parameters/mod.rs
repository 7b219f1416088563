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
//! Weights [in blocks](crate::graph::Element::Block) are frozen, and lie in buffers of their own that
//! have a layout of the same kind, counted in bytes. Segments are those of the others.
//!
//! A [`WeightStorage`] that keeps something beside the weights has it in the second half of the same
//! buffer, again with this layout, so that the first half is what kernels compute with.

mod blocks;
mod initial_values;
mod memory;
mod names;
mod parameter_layout;
mod rows;
mod starts;
mod trained;
mod values;

pub use super::layout::{Location, layout};
pub use memory::{allocate, check_binding};
pub use parameter_layout::ParameterLayout;
pub use rows::WeightSource;
pub(crate) use rows::{loading_bytes, pieces};
pub use values::read_slot;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{Element, Graph, ParameterSpec, Shape, StateSpec};
use crate::kernel::{Precision, WeightStorage};
use crate::plan::parts::Part;
use crate::record::{Slot, to_u32};

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
    layout: ParameterLayout,
    weights: Vec<wgpu::Buffer>,
    /// Weights in blocks.
    blocks: Vec<wgpu::Buffer>,
    committed: wgpu::Buffer,
}

impl Parameters {
    /// Allocates and initialises the parameters and states of a graph, in the storage that the
    /// graph has them in.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) for a vector larger than one binding and for a tensor
    /// with four rows that are, [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::Unsupported`](crate::Error::Unsupported) for weights in blocks that are to be
    /// trained.
    pub async fn new(gpu: &Gpu, graph: &Graph, seed: u32) -> Result<Self> {
        let (specs, states) = (graph.parameters(), graph.states());
        let parameters = Self::allocate(gpu, specs, states, graph.weights()).await?;
        parameters.initialize(seed);
        parameters.initialize_blocks(seed).await?;
        parameters.start(graph, |_| true).await?;
        Ok(parameters)
    }

    /// The same tensors on another device, zeroed.
    pub(crate) async fn zeroed_on(&self, gpu: &Gpu) -> Result<Self> {
        Self::allocate(gpu, &self.layout.specs, &self.layout.states, self.layout.storage).await
    }

    /// The same values in buffers of their own, on the same device, as they are after all that was
    /// submitted. What becomes of either from here on leaves the other alone: averages of weights,
    /// the best of a run, a second trainer.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn copy(&self) -> Result<Self> {
        let copy = self.zeroed_on(&self.gpu).await?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let all = |set: &'_ Self| -> Vec<wgpu::Buffer> { set.buffers().cloned().collect() };
        for (from, to) in all(self).iter().zip(&all(&copy)) {
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
        let layout = ParameterLayout::new(specs, states, storage, gpu.largest_binding())?;
        let bytes = layout.weight_bytes().chain(layout.block_bytes().iter().copied());
        let total = bytes.sum::<u64>() + layout.state_bytes();
        let (weights, blocks, committed) = allocate(gpu, "the parameters", total, || {
            let weights = layout.weight_bytes().map(|b| gpu.buffer("weights", b)).collect();
            let blocks = layout.block_bytes().iter().map(|&b| gpu.buffer("blocks", b)).collect();
            (weights, blocks, gpu.buffer("states", layout.state_bytes()))
        })
        .await?;
        Ok(Self { gpu: gpu.clone(), layout, weights, blocks, committed })
    }

    /// Where the tensors lie.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The parameters, in the order of the layout: that of the model, trained ones first.
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.layout.specs
    }

    /// The states, in the order of the layout.
    pub fn states(&self) -> &[StateSpec] {
        &self.layout.states
    }

    /// Names of all parameters, then of all states.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layout.names()
    }

    /// Number of elements of all parameters, without padding.
    pub fn count(&self) -> usize {
        self.layout.specs.iter().map(|spec| spec.shape.count()).sum()
    }

    /// Elements of padding between the rows of all parameters.
    pub fn padding(&self) -> u32 {
        padding(&self.layout.specs)
    }

    /// Where all parameters but those in blocks lie, in the order of the layout: whole, or in parts
    /// where the device has no binding for the whole.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.layout.parts()
    }

    /// Whether parameter `index` lies in more than one part.
    pub fn is_in_parts(&self, index: usize) -> bool {
        self.layout.is_in_parts(index)
    }

    /// How the optimizer holds the weights.
    pub fn storage(&self) -> WeightStorage {
        self.layout.storage
    }

    /// The size of each segment in quads.
    pub fn segments(&self) -> &[u64] {
        &self.layout.segments
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
        let is_in_blocks = self.layout.specs[index].shape.block_format().is_some();
        let flat = if is_in_blocks { &self.blocks } else { &self.weights };
        self.copy_slot_in(flat, index, self.layout.storage.precision())
    }

    /// What belongs to parameter `index` in flat buffers of the same layout, over f32.
    pub fn slot_in(&self, flat: &[wgpu::Buffer], index: usize, element: Element) -> Slot {
        self.slot_over(flat, index, self.layout.specs[index].shape.with(element))
    }

    /// What belongs to the copy of parameter `index` in another precision, in flat buffers of such
    /// copies.
    pub fn copy_slot_in(&self, flat: &[wgpu::Buffer], index: usize, precision: Precision) -> Slot {
        self.slot_over(flat, index, self.layout.specs[index].shape.stored_as(precision))
    }

    fn slot_over(&self, flat: &[wgpu::Buffer], index: usize, shape: Shape) -> Slot {
        let parts = self.layout.parts[index].iter().map(|part| {
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
        let offset = self.layout.state_locations[index].offset;
        Slot::at(flat.clone(), offset, self.layout.states[index].shape.clone())
    }

    /// All buffers: weights, weights in blocks, states.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.weights.iter().chain(&self.blocks).chain([&self.committed])
    }

    /// Bytes of weights and states on the device.
    pub fn bytes(&self) -> u64 {
        self.buffers().map(wgpu::Buffer::size).sum()
    }
}

/// Elements of padding between the rows of these tensors.
fn padding(specs: &[ParameterSpec]) -> u32 {
    to_u32(specs.iter().map(|spec| 4 * spec.shape.quads() - spec.shape.count()).sum())
}
