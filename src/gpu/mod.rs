//! A device with everything the rest needs beside it: its queue, its limits, its compiled
//! pipelines, and counters that show what was asked of it.
//!
//! A [`Gpu`] is cheap to clone and there is no global one. Make it from the environment
//! ([`Gpu::new`]) or from a device of your own ([`Gpu::from_device`]).

mod adapter;
mod loss;
mod numerics;
mod pacing;
mod pipeline;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use futures::channel::oneshot;
use futures::future::{Either, select};
use loss::Loss;

#[cfg(not(target_arch = "wasm32"))]
pub use numerics::Speed;
pub use numerics::{
    Accuracy, Arithmetic, Check, Compensation, Conversions, NonFiniteTests, Numerics, Outcome,
    Overflow, Races, Reductions, SpecialValue, Subnormals,
};

pub(crate) use pacing::{Pacing, Submitted};
pub use pacing::{SUBMIT_BUDGET, SlowDispatch, SubmitReport};
use web_time::Instant;

use crate::error::{Error, Result};
use crate::kernel::{AnyKernel, Declaration, Kernel};
use crate::variant::Variant;

/// Bytes between two uniform blocks or two bindings of one buffer: WebGPU's largest alignment.
pub const ALIGNMENT: u64 = 256;

/// A device, its queue, and the kernels compiled for it: a handle, as `wgpu::Device` is, and its
/// clones are the same device.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What the adapter says of itself. In a browser that is little: `name` is its description,
    /// which may be empty, and `device_type` is a CPU for a fallback adapter and `Other` for the rest.
    pub info: wgpu::AdapterInfo,
    shared: Arc<Shared>,
}

/// A kernel, its storage, its constants.
type PipelineKey = (&'static str, Variant, Vec<u32>);

#[derive(Debug)]
struct Shared {
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    dispatches: AtomicU64,
    submits: AtomicU64,
    maps: AtomicU64,
    allocated: AtomicU64,
    loss: Loss,
}

/// What was asked of a [`Gpu`] since it was made. Differences of two readings tell what a step
/// costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dispatches encoded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Buffers mapped for reading: the waits on the device, and host snapshots, which do not wait.
    pub maps: u64,
    /// Bytes of all buffers created, those freed since included.
    pub allocated_bytes: u64,
}

/// One dispatch, ready to be encoded any number of times. A clone is the same dispatch over the same
/// buffers.
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
    at: Instant,
    /// When it was seen to be done.
    done: oneshot::Receiver<Instant>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "nothing polls in a browser"))]
    index: wgpu::SubmissionIndex,
}

/// When a submit was seen to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub at: Instant,
    /// False where it had been done for a while when somebody looked.
    pub exact: bool,
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
        let gpu = Self::from_device(device, queue, info);
        // What was made of a device that is lost is not valid; that is no news, and no reason to
        // panic as wgpu does by default. Browsers report such errors to the console.
        #[cfg(not(target_arch = "wasm32"))]
        {
            let loss = gpu.shared.loss.clone();
            gpu.device.on_uncaptured_error(Arc::new(move |error| {
                assert!(loss.reason().is_some(), "wgpu error: {error}\n");
            }));
        }
        Ok(gpu)
    }

    /// A device that the caller made. Its device-lost callback is set, which only the last one set
    /// hears: make one `Gpu` of a device and clone that.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue, info: wgpu::AdapterInfo) -> Self {
        let shared = Shared {
            pipelines: Mutex::default(),
            dispatches: AtomicU64::new(0),
            submits: AtomicU64::new(0),
            maps: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            loss: Loss::of(&device),
        };
        Self { device, queue, info, shared: Arc::new(shared) }
    }

    /// True where shaders run on the CPU: lavapipe, SwiftShader, WARP, and a browser's fallback
    /// adapter.
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
        // Natively wgpu calls back only when it is asked.
        #[cfg(not(target_arch = "wasm32"))]
        self.poll(wgpu::PollType::Poll)?;
        match self.shared.loss.reason() {
            Some(reason) => Err(Error::DeviceLost { reason }),
            None => Ok(()),
        }
    }

    /// Resolves once the device is lost, with what the driver reported: after a driver reset, when
    /// a watchdog ended a submit, when the adapter was removed, or after
    /// [`destroy`](wgpu::Device::destroy).
    ///
    /// In a browser it resolves by itself. Natively the loss shows when the device is next used:
    /// by a step, a read, [`check`](Self::check) or [`wgpu::Device::poll`]. From then on whatever
    /// needs the device fails with [`Error::DeviceLost`]; nothing hangs.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        self.shared.loss.told()
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

    /// The compiled pipeline of a variant of a kernel, made on first use.
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

    /// Makes a dispatch that owns its uniform block, of the given variant: usually a
    /// [`Precision`](crate::Precision), the storage of tensors.
    pub fn prepare_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) -> Dispatch {
        self.prepare_any(&AnyKernel::of(kernel), variant.into())
    }

    fn prepare_any(&self, kernel: &AnyKernel<'_>, variant: Variant) -> Dispatch {
        use wgpu::BufferUsages as Usage;
        let size = (kernel.uniform.len() as u64).next_multiple_of(16);
        let buffer = self.create(kernel.declaration.name, size, Usage::UNIFORM | Usage::COPY_DST);
        self.prepare_in(kernel, variant, &buffer, 0)
    }

    /// Makes a dispatch whose uniform block is written to `uniforms` at `offset`.
    pub(crate) fn prepare_in(
        &self,
        kernel: &AnyKernel<'_>,
        variant: Variant,
        uniforms: &wgpu::Buffer,
        offset: u64,
    ) -> Dispatch {
        let declaration = kernel.declaration;
        let variant = Variant { few_lanes: self.is_software(), ..variant };
        let pipeline = self.pipeline(declaration, variant, &kernel.overrides);
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
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Dispatch { name: declaration.name, workgroups: kernel.grid, pipeline, bind_group }
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

    /// Runs one variant of a kernel at once, in a submit of its own.
    pub fn run_as<K: Kernel>(&self, kernel: &K, variant: impl Into<Variant>) {
        self.run_dispatch(&self.prepare_as(kernel, variant));
    }

    fn run_dispatch(&self, dispatch: &Dispatch) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, [dispatch]);
        self.submit(encoder);
    }

    /// Submits what was encoded.
    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Submission {
        self.shared.submits.fetch_add(1, Relaxed);
        let commands = encoder.finish();
        let at = Instant::now();
        let index = self.queue.submit([commands]);
        let (sender, done) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is dropped where nobody waits for this submit.
            sender.send(Instant::now()).unwrap_or(());
        });
        Submission { at, done, index }
    }

    /// Waits until a submit has run. Natively the calling thread waits; in a browser the event
    /// loop goes on.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub async fn wait(&self, submission: Submission) -> Result<()> {
        self.completion(submission).await.map(drop)
    }

    /// Waits until a submit has run, and tells when that was.
    pub(crate) async fn completion(&self, submission: Submission) -> Result<Completion> {
        let Submission { mut done, .. } = submission;
        #[cfg(not(target_arch = "wasm32"))]
        let completion = {
            // No wait with a timeout: wgpu 30 panics if another thread polls meanwhile.
            self.poll(wgpu::PollType::Poll)?;
            if let Ok(Some(at)) = done.try_recv() {
                Completion { at, exact: false }
            } else {
                let submission_index = Some(submission.index);
                self.poll(wgpu::PollType::Wait { submission_index, timeout: None })?;
                Completion { at: Instant::now(), exact: true }
            }
        };
        #[cfg(target_arch = "wasm32")]
        let completion = {
            let at = self.unless_lost(&mut done).await?;
            Completion {
                at: at.map_err(|_| self.lost_error("the queue was dropped"))?,
                exact: true,
            }
        };
        // A lost device finishes what it has by forgetting it.
        self.check()?;
        Ok(completion)
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
        let (sender, receiver) = oneshot::channel();
        self.map_later(staging, move |data| {
            // The receiver is dropped where the reading future was.
            sender.send(data).unwrap_or(());
        });
        #[cfg(not(target_arch = "wasm32"))]
        self.poll(wgpu::PollType::wait_indefinitely())?;
        let data = self.unless_lost(receiver).await?;
        let data = data.map_err(|_| self.lost_error("the map was cancelled"))?;
        data.map_err(|reason| self.lost_error(&reason))
    }

    /// Calls back with the bytes of a [`staging`](Self::staging) buffer, or with why there are none,
    /// once the work submitted so far has run; natively from whatever polls the device then.
    pub(crate) fn map_later(
        &self,
        staging: &wgpu::Buffer,
        done: impl FnOnce(Result<Vec<u8>, String>) + wgpu::WasmNotSend + 'static,
    ) {
        self.shared.maps.fetch_add(1, Relaxed);
        let buffer = staging.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |mapped| {
            let read = || {
                mapped.map_err(|error| error.to_string())?;
                let view = buffer.get_mapped_range(..).map_err(|error| error.to_string())?;
                let data = view.to_vec();
                drop(view);
                buffer.unmap();
                Ok(data)
            };
            done(read());
        });
    }

    /// Awaits what a browser may never resolve once the device is lost.
    async fn unless_lost<T>(&self, future: impl Future<Output = T> + Unpin) -> Result<T> {
        match select(future, std::pin::pin!(self.lost())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right((reason, _)) => Err(Error::DeviceLost { reason }),
        }
    }

    fn lost_error(&self, reason: &str) -> Error {
        let reason = self.shared.loss.reason().unwrap_or_else(|| reason.to_owned());
        Error::DeviceLost { reason }
    }

    /// Lets wgpu call back.
    #[cfg(not(target_arch = "wasm32"))]
    fn poll(&self, poll: wgpu::PollType) -> Result<()> {
        use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
        // A device that is lost while wgpu 30 waits for it makes it panic, after it has called back.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(poll))) {
            Ok(Ok(_)) => Ok(()),
            // The submit was refused: the device is destroyed, and may have work left to finish.
            Ok(Err(error)) => Err(self.lost_error(&error.to_string())),
            Err(_) if self.shared.loss.reason().is_some() => Err(self.lost_error("")),
            Err(panic) => resume_unwind(panic),
        }
    }
}
