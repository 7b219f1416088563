//! Buffers: made, written, read.

use std::sync::atomic::Ordering::Relaxed;

use futures::channel::oneshot;

use super::{ALIGNMENT, Gpu, Submission};
use crate::error::Result;

/// What the size of buffers depends on, of a device or of one that is only thought of: see
/// [`TrainerBuilder::memory`](crate::train::TrainerBuilder::memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Bytes that a binding may have, a multiple of 512: [`Gpu::largest_binding`].
    pub largest_binding: u64,
    /// Bytes that a buffer may have.
    pub largest_buffer: u64,
    /// Whether shaders run on the CPU, where matrix products take no memory beside their results.
    pub is_software: bool,
}

impl MemoryLimits {
    /// Of a GPU with WebGPU's default limits.
    pub const DEFAULT: Self =
        Self { largest_binding: 128 << 20, largest_buffer: 256 << 20, is_software: false };

    /// Of a device with these limits.
    pub fn new(limits: &wgpu::Limits, is_software: bool) -> Self {
        let largest = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        Self {
            largest_binding: largest - largest % (2 * ALIGNMENT),
            largest_buffer: limits.max_buffer_size,
            is_software,
        }
    }
}

impl From<&Gpu> for MemoryLimits {
    fn from(gpu: &Gpu) -> Self {
        gpu.memory_limits()
    }
}

/// Bytes of a [`Gpu::buffer`] that is to hold so many.
pub(crate) fn buffer_bytes(size: u64) -> u64 {
    size.max(16).next_multiple_of(16)
}

impl Gpu {
    /// What the size of its buffers depends on.
    pub fn memory_limits(&self) -> MemoryLimits {
        MemoryLimits::new(&self.device.limits(), self.is_software())
    }

    /// A zeroed storage buffer that can be copied from and to. Sizes are rounded up to 16 bytes.
    pub fn buffer(&self, label: &str, size: u64) -> wgpu::Buffer {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        self.create(label, buffer_bytes(size), usage)
    }

    /// A storage buffer that holds `data`.
    pub fn upload<T: bytemuck::NoUninit>(&self, label: &str, data: &[T]) -> wgpu::Buffer {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        // A shader's array has room for one at least.
        let buffer = self.buffer(label, bytes.len().max(size_of::<T>()) as u64);
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

    /// Reads `count` elements of a buffer from byte `offset`. This waits for the device: it
    /// counts as a map.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
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
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
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

    /// Bytes that [`map_later`](Self::map_later) sends, once the submit that copies them has run; what
    /// was submitted behind it is not waited for.
    pub(crate) async fn arrived(
        &self,
        copied: Submission,
        bytes: oneshot::Receiver<Result<Vec<u8>, String>>,
    ) -> Result<Vec<u8>> {
        self.wait(copied).await?;
        let data = self.unless_lost(bytes).await?;
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
}
