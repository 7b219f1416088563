//! Turns kernels into dispatches, with all uniform blocks side by side in a few buffers.

use std::sync::Arc;

use super::extent::{Machine, tiled_products};
use super::{Slot, StepBuffers};
use crate::gpu::{ALIGNMENT, Dispatch, Gpu, Origin};
use crate::kernel::{AnyKernel, BlockFormat, HeadQuads, Kernel, Precision, Variant};

/// Rows, columns and terms of a product that is worth large tiles in registers: they take SwiftShader
/// a third of a second to compile, which smaller products are long in saving.
const LARGE_PRODUCT: u32 = 128;

/// Bytes of one buffer of uniform blocks: 256 dispatches.
const PAGE: u64 = 256 * ALIGNMENT;

/// Collects the dispatches of a plan.
#[derive(Debug)]
pub struct Recorder<'a> {
    gpu: &'a Gpu,
    step: &'a StepBuffers,
    dispatches: Vec<Dispatch>,
    page: Option<(wgpu::Buffer, u64)>,
    unused: Option<wgpu::Buffer>,
    scratch: Option<wgpu::Buffer>,
    variant: Variant,
    native_f16: bool,
    /// Buffers that hold halves while an operation in half precision is recorded.
    halves: Vec<wgpu::Buffer>,
    origin: Option<Arc<Origin>>,
}

impl<'a> Recorder<'a> {
    /// An empty recorder.
    pub fn new(gpu: &'a Gpu, step: &'a StepBuffers) -> Self {
        Self {
            gpu,
            step,
            dispatches: Vec::new(),
            page: None,
            unused: None,
            scratch: None,
            variant: Variant::default(),
            native_f16: false,
            halves: Vec::new(),
            origin: None,
        }
    }

    /// The device that will run the plan.
    pub fn gpu(&self) -> &'a Gpu {
        self.gpu
    }

    /// The [`StepInput`](crate::step::StepInput) of the microbatch.
    pub fn step_input(&self) -> wgpu::BufferBinding<'a> {
        self.step.input.as_entire_buffer_binding()
    }

    /// The [`StepState`](crate::step::StepState) of the run.
    pub fn step_state(&self) -> wgpu::BufferBinding<'a> {
        self.step.state.as_entire_buffer_binding()
    }

    /// A small buffer to bind where a kernel has an optional buffer that is not used.
    pub fn unused(&mut self) -> wgpu::Buffer {
        self.unused.get_or_insert_with(|| self.gpu.buffer("unused", ALIGNMENT)).clone()
    }

    /// A buffer of at least so many bytes for what the dispatches of one operation hand on to each
    /// other. The next operation may get the same one. [`Op::scratch_bytes`] says so beforehand.
    ///
    /// [`Op::scratch_bytes`]: crate::graph::Op::scratch_bytes
    pub fn scratch(&mut self, bytes: u64) -> wgpu::Buffer {
        let large_enough = self.scratch.take().filter(|scratch| scratch.size() >= bytes);
        let scratch = large_enough.unwrap_or_else(|| self.gpu.buffer("scratch", bytes));
        self.scratch.insert(scratch).clone()
    }

    /// Begins with the buffer of a recorder whose dispatches never run at the same time.
    pub(crate) fn set_scratch(&mut self, scratch: Option<wgpu::Buffer>) {
        self.scratch = scratch;
    }

    /// That buffer, if there was need of it.
    pub(crate) fn into_scratch(self) -> Option<wgpu::Buffer> {
        self.scratch
    }

    /// Bytes of that buffer.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        self.scratch.as_ref().map_or(0, wgpu::Buffer::size)
    }

    /// Compiles what is recorded from here on for this storage.
    pub fn set_variant(&mut self, variant: impl Into<Variant>) {
        self.variant = variant.into();
    }

    /// Compiles what is recorded until the end of the operation for heads of this many quads.
    pub fn set_head_quads(&mut self, quads: u32) {
        self.variant.head_quads = HeadQuads::fitting(quads);
    }

    /// Compiles the matrix products recorded until the end of the operation for the tile that is
    /// fastest for `batch` products of `rows` x `cols` with sums of `inner` terms, by the device's
    /// [`product_tiles`](crate::Gpu::product_tiles); those in registers for large ones, where the
    /// device has them and the sizes are at least 128.
    pub fn set_product_size(&mut self, rows: u32, cols: u32, inner: u32, batch: u32) {
        self.variant.product_tile = self.gpu.product_tiles().fitting(rows, cols, batch);
        let is_large = rows.min(cols).min(inner) >= LARGE_PRODUCT;
        self.variant.large_register_tiles = is_large;
    }

    /// Compiles what is recorded until the end of the operation for a weight in such blocks, or in
    /// quads.
    pub fn set_blocks(&mut self, blocks: Option<BlockFormat>) {
        self.variant.blocks = blocks;
    }

    /// Says what all that is recorded from here on is part of.
    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = Some(Arc::new(origin));
    }

    /// Lets matrix products of f16 tensors multiply in f16.
    pub(crate) fn set_native_f16(&mut self, native: bool) {
        self.native_f16 = native;
    }

    /// Whether matrix products should go through workgroup memory: on hardware, and where they
    /// multiply in f16.
    pub fn tiled_products(&self) -> bool {
        let Variant { native_f16, precision, .. } = self.variant;
        tiled_products(self.gpu.is_software(), native_f16, precision)
    }

    /// What dispatches depend on beside their operands.
    pub fn machine(&self) -> Machine {
        Machine::new(self.gpu.memory_limits(), self.variant.native_f16, self.variant.precision)
    }

    /// Records an operation whose tensors are stored in `precision`: what `record` records.
    pub(crate) fn operation(
        &mut self,
        precision: Precision,
        operands: impl IntoIterator<Item = Slot>,
        record: impl FnOnce(&mut Self),
    ) {
        let native_f16 = self.native_f16;
        self.set_variant(Variant { native_f16, ..precision.into() });
        let halves = operands.into_iter().filter(|s| s.shape.precision != Precision::F32);
        self.halves = halves.flat_map(|slot| slot.parts()).map(|(_, part)| part.buffer).collect();
        record(self);
        self.halves.clear();
        self.set_variant(Variant::default());
    }

    /// Records one dispatch. A grid without workgroups is dropped.
    ///
    /// # Panics
    /// In an operation in half precision, for a kernel that reads or writes such a value without
    /// the fragment [`QUAD_F32`](crate::kernel::shared::QUAD_F32).
    pub fn dispatch<K: Kernel>(&mut self, kernel: &K) {
        self.dispatch_any(&AnyKernel::of(kernel, self.gpu.fitted(self.variant)));
    }

    pub(crate) fn dispatch_any(&mut self, kernel: &AnyKernel<'_>) {
        if kernel.grid.contains(&0) {
            return;
        }
        let declaration = kernel.declaration;
        if !declaration.has_quads() && kernel.buffers.iter().any(|b| self.halves.contains(b.buffer))
        {
            panic!(
                "{} is bound to values in {}, but reads f32: join the fragment QUAD_F32 and use \
                 its pack and unpack, or apply the operation with_precision(Precision::F32)",
                declaration.name, self.variant.precision
            );
        }
        let (page, offset) = match self.page.take() {
            Some((page, offset)) if offset < PAGE => (page, offset),
            _ => {
                let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
                (self.gpu.create("uniforms", PAGE, usage), 0)
            }
        };
        assert!(kernel.uniform.len() as u64 <= ALIGNMENT, "a uniform block of 256 bytes at most");
        let variant = self.gpu.fitted(self.variant);
        let mut dispatch = self.gpu.prepare_in(kernel, variant, &page, offset);
        dispatch.origin = self.origin.clone();
        self.dispatches.push(dispatch);
        self.page = Some((page, offset + ALIGNMENT));
    }

    /// Dispatches recorded since the last [`take`](Self::take).
    pub fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// The dispatches recorded since the last call. Uniform pages go on being filled.
    pub fn take(&mut self) -> Vec<Dispatch> {
        std::mem::take(&mut self.dispatches)
    }
}
