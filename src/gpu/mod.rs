//! A device with everything the rest needs beside it: its queue, its limits, its compiled
//! pipelines, and counters that show what was asked of it.
//!
//! A [`Gpu`] is cheap to clone and there is no global one. Make it from the environment
//! ([`Gpu::new`]) or from a device of your own ([`Gpu::from_device`]).

mod adapter;
mod numerics;
mod pipeline;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use futures::channel::oneshot;

#[cfg(not(target_arch = "wasm32"))]
pub use numerics::Speed;
pub use numerics::{
    Accuracy, Arithmetic, Check, Compensation, Conversions, NonFiniteTests, Numerics, Outcome,
    Overflow, Races, Reductions, SpecialValue, Subnormals,
};

use crate::error::{Error, Result};
use crate::kernel::{Declaration, Kernel};
use crate::precision::Variant;

/// Bytes between two uniform blocks or two bindings of one buffer: WebGPU's largest alignment.
pub const ALIGNMENT: u64 = 256;

/// A device, its queue, and the kernels compiled for it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What the adapter says of itself; empty in a browser.
    pub info: wgpu::AdapterInfo,
    shared: Arc<Shared>,
}

/// A kernel, its storage, its constants.
type PipelineKey = (&'static str, Variant, Vec<u32>);

#[derive(Debug, Default)]
struct Shared {
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    dispatches: AtomicU64,
    submits: AtomicU64,
    maps: AtomicU64,
    allocated: AtomicU64,
    lost: Mutex<Option<String>>,
}

/// What was asked of a [`Gpu`] since it was made. Differences of two readings tell what a step
/// costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dispatches encoded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Buffers mapped for reading: the waits on the device.
    pub maps: u64,
    /// Bytes of all buffers created, those freed since included.
    pub allocated_bytes: u64,
}

/// One dispatch, ready to be encoded any number of times.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Name of the kernel.
    pub name: &'static str,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

/// A submit that can be waited for.
#[derive(Debug)]
pub struct Submission {
    #[cfg(not(target_arch = "wasm32"))]
    index: wgpu::SubmissionIndex,
    #[cfg(target_arch = "wasm32")]
    done: oneshot::Receiver<()>,
}

impl Gpu {
    /// The adapter that the environment selects, with all of its limits.
    ///
    /// `WGPU_BACKEND`, `WGPU_POWER_PREF` and `WGPU_ADAPTER_NAME` (a part of the name) choose;
    /// without them the most powerful adapter is taken.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if nothing answers, [`Error::NoDevice`] if the driver refuses.
    pub async fn new() -> Result<Self> {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapter = adapter::find(&instance).await?;
        Self::from_adapter(&adapter).await
    }

    /// A device of the given adapter, with all of its limits and the features kernels can use.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the driver refuses.
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let info = adapter.get_info();
        let wanted =
            wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("evenkeel"),
                required_features: adapter.features() & wanted,
                required_limits: adapter.limits(),
                ..Default::default()
            })
            .await
            .map_err(|error| Error::NoDevice {
                adapter: info.name.clone(),
                reason: error.to_string(),
            })?;
        Ok(Self::from_device(device, queue, info))
    }

    /// A device that the caller made. Its device-lost callback is set.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue, info: wgpu::AdapterInfo) -> Self {
        let shared = Arc::new(Shared::default());
        let lost = Arc::clone(&shared);
        device.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?} {message}");
            *lost.lost.lock().expect("not poisoned") = Some(text.trim().to_owned());
        });
        Self { device, queue, info, shared }
    }

    /// True where shaders run on the CPU: lavapipe, SwiftShader, WARP.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// What was asked of this device so far.
    pub fn counters(&self) -> Counters {
        Counters {
            dispatches: self.shared.dispatches.load(Relaxed),
            submits: self.shared.submits.load(Relaxed),
            maps: self.shared.maps.load(Relaxed),
            allocated_bytes: self.shared.allocated.load(Relaxed),
        }
    }

    /// Fails once the device is lost.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] with what the driver reported.
    pub fn check(&self) -> Result<()> {
        match &*self.shared.lost.lock().expect("not poisoned") {
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The largest buffer that can also be bound as a whole, in bytes.
    pub fn largest_binding(&self) -> u64 {
        let limits = self.device.limits();
        let largest = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        largest - largest % (2 * ALIGNMENT)
    }

    /// A zeroed storage buffer that can be copied from and to. Sizes are rounded up to 16 bytes.
    pub fn buffer(&self, label: &str, size: u64) -> wgpu::Buffer {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        self.create(label, size.max(16).next_multiple_of(16), usage)
    }

    /// A storage buffer that holds `data`.
    pub fn upload<T: bytemuck::NoUninit>(&self, label: &str, data: &[T]) -> wgpu::Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let buffer = self.buffer(label, bytes.len() as u64);
        self.write(&buffer, 0, bytes);
        buffer
    }

    /// Writes bytes into a buffer before the next submit. Lengths are padded to 4 bytes.
    pub fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        if bytes.len().is_multiple_of(4) {
            self.queue.write_buffer(buffer, offset, bytes);
        } else {
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(4), 0);
            self.queue.write_buffer(buffer, offset, &padded);
        }
    }

    pub(crate) fn create(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.shared.allocated.fetch_add(size, Relaxed);
        let label = Some(label);
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// The compiled pipeline of a kernel over the given storage, made on first use.
    pub fn pipeline(
        &self,
        kernel: &Declaration,
        variant: Variant,
        overrides: &[u32],
    ) -> wgpu::ComputePipeline {
        let variant = kernel.variant(variant);
        let key = (kernel.name, variant, overrides.to_vec());
        if let Some(pipeline) = self.shared.pipelines.lock().expect("not poisoned").get(&key) {
            return pipeline.clone();
        }
        let pipeline = pipeline::build(&self.device, kernel, variant, overrides);
        self.shared.pipelines.lock().expect("not poisoned").insert(key, pipeline.clone());
        pipeline
    }

    /// Makes a dispatch that owns its uniform block, over f32 storage.
    pub fn prepare<K: Kernel>(&self, kernel: &K) -> Dispatch {
        self.prepare_as(kernel, Variant::default())
    }

    /// Makes a dispatch that owns its uniform block, over the given storage: a
    /// [`Precision`](crate::Precision), usually.
    pub fn prepare_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) -> Dispatch {
        use wgpu::BufferUsages as Usage;
        let size = (kernel.uniform().len() as u64).next_multiple_of(16);
        let usage = Usage::UNIFORM | Usage::COPY_DST;
        let buffer = self.create(const { K::DECLARATION.name }, size, usage);
        self.prepare_in(kernel, variant.into(), &buffer, 0)
    }

    /// Makes a dispatch whose uniform block is written to `uniforms` at `offset`.
    pub(crate) fn prepare_in<K: Kernel>(
        &self,
        kernel: &K,
        variant: Variant,
        uniforms: &wgpu::Buffer,
        offset: u64,
    ) -> Dispatch {
        let declaration = const { &K::DECLARATION };
        let pipeline = self.pipeline(declaration, variant, &kernel.overrides());
        self.queue.write_buffer(uniforms, offset, kernel.uniform());
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniforms,
                offset,
                size: std::num::NonZeroU64::new(kernel.uniform().len().next_multiple_of(16) as u64),
            }),
        }];
        for (binding, buffer) in (1..).zip(kernel.buffers()) {
            let resource = wgpu::BindingResource::Buffer(buffer);
            entries.push(wgpu::BindGroupEntry { binding, resource });
        }
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(declaration.name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { name: declaration.name, workgroups: kernel.grid(), pipeline, bind_group }
    }

    /// Encodes dispatches in order into one compute pass.
    pub fn encode<'d>(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: impl IntoIterator<Item = &'d Dispatch>,
    ) {
        let mut count = 0;
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in dispatches {
            let [x, y, z] = dispatch.workgroups;
            pass.set_pipeline(&dispatch.pipeline);
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

    /// Runs one kernel over the given storage at once, in a submit of its own.
    pub fn run_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) {
        let dispatch = self.prepare_as(kernel, variant);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, [&dispatch]);
        self.submit(encoder);
    }

    /// Submits what was encoded.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Submission {
        self.shared.submits.fetch_add(1, Relaxed);
        #[cfg(not(target_arch = "wasm32"))]
        {
            Submission { index: self.queue.submit([encoder.finish()]) }
        }
        #[cfg(target_arch = "wasm32")]
        {
            self.queue.submit([encoder.finish()]);
            let (sender, done) = oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                // The receiver is dropped where nobody waits for this submit.
                sender.send(()).unwrap_or(());
            });
            Submission { done }
        }
    }

    /// Waits until a submit has run. Natively the calling thread waits; in a browser the event
    /// loop goes on.
    pub async fn wait(&self, submission: Submission) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        self.poll(Some(submission.index))?;
        #[cfg(target_arch = "wasm32")]
        submission.done.await.map_err(|_| self.lost_error("the queue was dropped"))?;
        self.check()
    }

    /// Reads `count` elements of a buffer from byte `offset`. This waits for the device: it
    /// counts as a map.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn read<T: bytemuck::Pod>(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        count: usize,
    ) -> Result<Vec<T>> {
        let bytes = count * size_of::<T>();
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let size = (bytes as u64).next_multiple_of(4);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let staging = self.staging(size);
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
        self.submit(encoder);
        let mut data = self.map(&staging).await?;
        data.truncate(bytes);
        Ok(bytemuck::pod_collect_to_vec(&data))
    }

    /// A buffer to copy into and [`map`](Self::map).
    pub fn staging(&self, size: u64) -> wgpu::Buffer {
        self.create("staging", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    /// The bytes of a [`staging`](Self::staging) buffer once the work submitted so far has run.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn map(&self, staging: &wgpu::Buffer) -> Result<Vec<u8>> {
        self.check()?;
        self.shared.maps.fetch_add(1, Relaxed);
        let (sender, receiver) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is dropped where the reading future was.
            sender.send(result).unwrap_or(());
        });
        #[cfg(not(target_arch = "wasm32"))]
        self.poll(None)?;
        let mapped = receiver.await.map_err(|_| self.lost_error("the map was cancelled"))?;
        mapped.map_err(|error| self.lost_error(&error.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|e| self.lost_error(&e.to_string()))?;
        let data = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(data)
    }

    fn lost_error(&self, reason: &str) -> Error {
        self.check().err().unwrap_or_else(|| Error::DeviceLost { reason: reason.to_owned() })
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn poll(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.device
            .poll(wgpu::PollType::Wait { submission_index, timeout: None })
            .map(drop)
            .map_err(|error| self.lost_error(&error.to_string()))
    }
}
