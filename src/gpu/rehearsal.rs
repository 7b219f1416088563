//! Devices on which kernels run once, without workgroups, ahead of the device they are meant for.

use std::time::{Duration, Instant};

use super::pipeline::{Pipeline, unless_refused};
use crate::kernel::Access;

/// Bytes of the buffers that are bound: more than any kernel has in front of its arrays.
const BYTES: u64 = 4096;

/// What a driver has in its cache takes less than this without workgroups.
const COMPILED: Duration = Duration::from_millis(5);

/// The devices of all threads.
#[derive(Debug, Default)]
pub(super) enum Rehearsals {
    /// Of no use: the driver does not compile when a kernel runs, or has a cache that is full, or
    /// none that other devices profit from.
    #[default]
    None,
    /// Whether they are of use shows with the first kernel.
    Unknown(wgpu::Adapter),
    /// Of use. Those that no thread has right now.
    Of(wgpu::Adapter, Vec<Rehearsal>),
}

impl Rehearsals {
    /// A device to run the kernel on, where that is of use.
    pub fn take(&mut self, pipeline: &Pipeline) -> Option<Rehearsal> {
        if let Self::Unknown(adapter) = self {
            *self = if are_of_use(adapter, pipeline) {
                Self::Of(adapter.clone(), Vec::new())
            } else {
                Self::None
            };
        }
        let Self::Of(adapter, idle) = self else { return None };
        idle.pop().or_else(|| Rehearsal::new(adapter))
    }

    /// Takes back what [`take`](Self::take) gave.
    pub fn give_back(&mut self, rehearsal: Rehearsal) {
        if let Self::Of(_, idle) = self {
            idle.push(rehearsal);
        }
    }
}

/// Whether what one device compiled is quick for another, and was not so before.
fn are_of_use(adapter: &wgpu::Adapter, pipeline: &Pipeline) -> bool {
    let first_run = || Rehearsal::new(adapter)?.run(pipeline);
    let Some(empty) = first_run().filter(|empty| *empty > COMPILED) else { return false };
    first_run().is_some_and(|full| full < empty / 2)
}

/// A device of a thread's own, of the same adapter as the one that kernels are meant for. It compiles
/// in a queue of its own, and what it compiled is in the driver's cache for all.
#[derive(Debug)]
pub(super) struct Rehearsal {
    device: wgpu::Device,
    queue: wgpu::Queue,
    uniform: wgpu::Buffer,
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Rehearsal {
    /// None where the driver has no other device to give.
    pub fn new(adapter: &wgpu::Adapter) -> Option<Self> {
        let descriptor = super::Gpu::requirements(adapter).descriptor();
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).ok()?;
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("rehearsal"),
                size: BYTES,
                usage,
                mapped_at_creation: false,
            })
        };
        let storage = || buffer(wgpu::BufferUsages::STORAGE);
        let uniform = buffer(wgpu::BufferUsages::UNIFORM);
        let (read, written) = (storage(), storage());
        Some(Self { uniform, read, written, device, queue })
    }

    /// What the first run of a kernel takes: much where the driver compiles in it.
    pub fn run(&self, pipeline: &Pipeline) -> Option<Duration> {
        unless_refused(&self.device, || {
            let pipeline = pipeline.on(&self.device);
            let bind_group = self.bind_group(&pipeline);
            let compiled = pipeline.get();
            let begun = Instant::now();
            submit_without_workgroups(&self.device, &self.queue, compiled, &bind_group);
            self.device.poll(wgpu::PollType::wait_indefinitely()).ok()?;
            Some(begun.elapsed())
        })
        .flatten()
    }

    fn bind_group(&self, pipeline: &Pipeline) -> wgpu::BindGroup {
        let buffers = pipeline.kernel.buffers.iter().map(|(_, access)| match access {
            Access::Read => &self.read,
            Access::Write => &self.written,
        });
        let entries: Vec<_> = (0..)
            .zip(std::iter::once(&self.uniform).chain(buffers))
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.kernel.name),
            layout: &pipeline.bindings,
            entries: &entries,
        })
    }
}

/// Runs a kernel, which reads and writes nothing.
pub(super) fn submit_without_workgroups(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    pipeline: &wgpu::ComputePipeline,
    bind_group: &wgpu::BindGroup,
) {
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, bind_group, &[]);
    pass.dispatch_workgroups(0, 0, 0);
    drop(pass);
    queue.submit([encoder.finish()]);
}
