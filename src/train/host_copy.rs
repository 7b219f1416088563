//! The buffers that a checkpoint is made of, copied to the host all at once.

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{JoinAll, join_all};

use crate::error::Result;
use crate::gpu::Gpu;
use crate::plan::parameters::{self, Location};

/// Whole buffers and room for copies that the host can map: one staging buffer, or as many as the
/// largest possible one demands.
#[derive(Debug)]
pub(super) struct HostCopy {
    sources: Vec<(wgpu::Buffer, Location)>,
    staging: Vec<wgpu::Buffer>,
}

/// Copies on their way to the host, one for each staging buffer.
#[derive(Debug)]
pub(super) struct Arriving(JoinAll<oneshot::Receiver<Result<Vec<u8>, String>>>);

/// What the buffers held.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    copy: &'a HostCopy,
    staged: &'a [Vec<u8>],
}

/// Bytes of a copy of buffers of these sizes, where a buffer may have `largest`.
pub(super) fn copy_bytes(sizes: impl IntoIterator<Item = u64>, largest: u64) -> u64 {
    parameters::layout(sizes, largest).1.iter().sum()
}

impl HostCopy {
    /// Room for copies of these buffers, whose sizes are multiples of 4 bytes.
    pub async fn new<'a>(
        gpu: &Gpu,
        sources: impl IntoIterator<Item = &'a wgpu::Buffer>,
    ) -> Result<Self> {
        let sources: Vec<_> = sources.into_iter().cloned().collect();
        let largest = gpu.device.limits().max_buffer_size;
        let sizes = sources.iter().map(wgpu::Buffer::size);
        let (locations, bytes) = parameters::layout(sizes, largest);
        let staging = parameters::allocate(gpu, "a copy for the host", bytes.iter().sum(), || {
            bytes.iter().map(|&bytes| gpu.staging(bytes)).collect()
        });
        let staging = staging.await?;
        Ok(Self { sources: sources.into_iter().zip(locations).collect(), staging })
    }

    /// Bytes of the copies.
    pub fn bytes(&self) -> u64 {
        self.staging.iter().map(wgpu::Buffer::size).sum()
    }

    /// Encodes the copies. They must not be mapped at that time.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        for (source, Location { segment, offset }) in &self.sources {
            let staging = &self.staging[*segment];
            encoder.copy_buffer_to_buffer(source, 0, staging, *offset, source.size());
        }
    }

    /// Asks for what was copied, once that has run.
    pub fn request(&self, gpu: &Gpu) -> Arriving {
        Arriving(join_all(self.staging.iter().map(|staging| {
            let (sender, receiver) = oneshot::channel();
            // The receiver is dropped where the copies are no longer wanted.
            gpu.map_later(staging, move |data| sender.send(data).unwrap_or(()));
            receiver
        })))
    }

    /// Copies, and waits for it.
    pub async fn read(&self, gpu: &Gpu) -> Result<Vec<Vec<u8>>> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder);
        gpu.submit(encoder);
        let mut staged = Vec::with_capacity(self.staging.len());
        for staging in &self.staging {
            staged.push(gpu.map(staging).await?);
        }
        Ok(staged)
    }

    /// What the staging buffers held, buffer by buffer.
    pub fn contents<'a>(&'a self, staged: &'a [Vec<u8>]) -> Contents<'a> {
        Contents { copy: self, staged }
    }
}

impl Arriving {
    /// All copies if they have arrived; an error once one of them never will.
    pub fn arrived(&mut self) -> Option<Result<Vec<Vec<u8>>, String>> {
        let all = (&mut self.0).now_or_never()?;
        Some(all.into_iter().map(|data| data.map_err(|e| e.to_string())?).collect())
    }
}

impl Contents<'_> {
    /// The bytes of a buffer.
    ///
    /// # Panics
    /// For one that was not copied.
    pub fn of(&self, buffer: &wgpu::Buffer) -> &[u8] {
        let found = self.copy.sources.iter().find(|(source, _)| source == buffer);
        let (source, Location { segment, offset }) = found.expect("a buffer that was copied");
        &self.staged[*segment][*offset as usize..][..source.size() as usize]
    }
}
