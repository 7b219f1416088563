//! Kernels made ready, and encoded or run.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::pipeline::Pipeline;
use super::{Gpu, Origin};
use crate::kernel::{Access, AnyKernel, Declaration, Kernel, Variant, Work};

/// A part of a buffer: its first byte and how many.
type Region = (wgpu::Buffer, u64, u64);

/// One dispatch, ready to be encoded any number of times. A clone is the same dispatch over the same
/// buffers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Name of the kernel.
    pub name: &'static str,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// What it has to do.
    pub work: Work,
    /// What it is part of, where it is part of a plan or an update.
    pub origin: Option<Arc<Origin>>,
    /// What it writes.
    pub(super) written: Arc<[Region]>,
    pub(super) pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
}

impl Dispatch {
    /// What it may write: buffers, and which of their bytes.
    pub fn writes(&self) -> impl Iterator<Item = (&wgpu::Buffer, Range<u64>)> {
        self.written.iter().map(|(buffer, offset, bytes)| (buffer, *offset..offset + bytes))
    }
}

impl Gpu {
    /// The compiled pipeline of a variant of a kernel, made on first use.
    pub fn pipeline(
        &self,
        kernel: &Declaration,
        variant: Variant,
        overrides: &[u32],
    ) -> wgpu::ComputePipeline {
        self.kernel_for(kernel, variant, overrides).0.get().clone()
    }

    /// A variant of a kernel for this device, compiled or not, and whether nobody asked for it before.
    fn kernel_for(
        &self,
        kernel: &Declaration,
        variant: Variant,
        overrides: &[u32],
    ) -> (Arc<Pipeline>, bool) {
        let variant = kernel.variant(variant);
        let mut pipelines = self.shared.pipelines.lock().expect("not poisoned");
        let mut is_new = false;
        let pipeline = pipelines.entry((kernel.name, variant, overrides.to_vec()));
        let pipeline = pipeline.or_insert_with(|| {
            is_new = true;
            let compilation = &self.shared.compilation;
            Arc::new(Pipeline::new(&self.device, compilation, kernel, variant, overrides))
        });
        (Arc::clone(pipeline), is_new)
    }

    /// Makes a dispatch that owns its uniform block, over f32 storage.
    pub fn prepare<K: Kernel>(&self, kernel: &K) -> Dispatch {
        self.prepare_as(kernel, Variant::default())
    }

    /// Makes a dispatch that owns its uniform block, of the given variant: usually a
    /// [`Precision`](crate::Precision), the storage of tensors.
    pub fn prepare_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) -> Dispatch {
        self.prepare_exactly(kernel, self.fitted(variant.into()))
    }

    /// The same of this variant, whatever this device has and was found to do.
    pub(super) fn prepare_exactly<K: Kernel>(&self, kernel: &K, variant: Variant) -> Dispatch {
        self.prepare_any(&AnyKernel::of(kernel, variant), variant)
    }

    fn prepare_any(&self, kernel: &AnyKernel<'_>, variant: Variant) -> Dispatch {
        use wgpu::BufferUsages as Usage;
        let size = (kernel.uniform.len() as u64).next_multiple_of(16);
        let buffer = self.create(kernel.declaration.name, size, Usage::UNIFORM | Usage::COPY_DST);
        let dispatch = self.bind(kernel, variant, &buffer, 0).0;
        dispatch.pipeline.get();
        dispatch
    }

    /// Makes a dispatch whose uniform block is written to `uniforms` at `offset`. Its kernel is
    /// compiled meanwhile.
    pub(crate) fn prepare_in(
        &self,
        kernel: &AnyKernel<'_>,
        variant: Variant,
        uniforms: &wgpu::Buffer,
        offset: u64,
    ) -> Dispatch {
        let (dispatch, is_new) = self.bind(kernel, variant, uniforms, offset);
        if is_new {
            self.compile_ahead(&dispatch);
        }
        dispatch
    }

    /// Browsers compile by themselves, one kernel after the other, and say when they have done what
    /// they were asked so far.
    #[cfg(target_arch = "wasm32")]
    fn compile_ahead(&self, dispatch: &Dispatch) {
        let begun = web_time::Instant::now();
        let pipeline = Arc::clone(&dispatch.pipeline);
        pipeline.hand_over();
        let done = self.done();
        wasm_bindgen_futures::spawn_local(async move {
            // Nobody is told of what was dropped with its device.
            if done.await.is_ok() {
                pipeline.tell(begun.elapsed());
            }
        });
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn compile_ahead(&self, dispatch: &Dispatch) {
        self.shared.compilers.add(Arc::clone(&dispatch.pipeline));
    }

    /// Binds what a kernel has, and tells whether it is to be compiled.
    fn bind(
        &self,
        kernel: &AnyKernel<'_>,
        variant: Variant,
        uniforms: &wgpu::Buffer,
        offset: u64,
    ) -> (Dispatch, bool) {
        let declaration = kernel.declaration;
        let (pipeline, is_new) = self.kernel_for(declaration, variant, &kernel.overrides);
        self.queue.write_buffer(uniforms, offset, kernel.uniform);
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniforms,
                offset,
                size: std::num::NonZeroU64::new(kernel.uniform.len().next_multiple_of(16) as u64),
            }),
        }];
        for (binding, buffer) in (1..).zip(&kernel.buffers) {
            let resource = wgpu::BindingResource::Buffer(buffer.clone());
            entries.push(wgpu::BindGroupEntry { binding, resource });
        }
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(declaration.name),
            layout: &pipeline.bindings,
            entries: &entries,
        });
        let dispatch = Dispatch {
            name: declaration.name,
            workgroups: kernel.grid,
            work: Work::of(kernel),
            origin: None,
            written: written(kernel),
            pipeline,
            bind_group,
        };
        (dispatch, is_new)
    }

    /// Encodes dispatches in order into one compute pass.
    pub fn encode<'d>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: impl IntoIterator<Item = &'d Dispatch>,
    ) {
        self.encode_pass(encoder, None, dispatches);
    }

    /// The same, between two timestamps.
    pub(super) fn encode_pass<'d>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
        dispatches: impl IntoIterator<Item = &'d Dispatch>,
    ) {
        let mut count = 0;
        let description = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        let mut pass = encoder.begin_compute_pass(&description);
        for dispatch in dispatches {
            let [x, y, z] = dispatch.workgroups;
            pass.set_pipeline(dispatch.pipeline.get());
            pass.set_bind_group(0, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
            count += 1;
        }
        self.shared.dispatches.fetch_add(count, Relaxed);
    }

    /// Runs one kernel over f32 storage at once, in a submit of its own.
    pub fn run<K: Kernel>(&self, kernel: &K) {
        self.run_as(kernel, Variant::default());
    }

    /// Runs one variant of a kernel at once, in a submit of its own.
    pub fn run_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) {
        self.run_dispatch(&self.prepare_as(kernel, variant));
    }

    fn run_dispatch(&self, dispatch: &Dispatch) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, [dispatch]);
        self.submit(encoder);
    }
}

fn written(kernel: &AnyKernel<'_>) -> Arc<[Region]> {
    let bound = kernel.declaration.buffers.iter().zip(&kernel.buffers);
    let written = bound.filter(|((_, access), _)| *access == Access::Write);
    let region = |binding: &wgpu::BufferBinding<'_>| {
        let rest = binding.buffer.size() - binding.offset;
        (binding.buffer.clone(), binding.offset, binding.size.map_or(rest, u64::from))
    };
    written.map(|(_, binding)| region(binding)).collect()
}
