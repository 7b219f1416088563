//! Kernels that run once, without workgroups and over buffers of nobody's, before they are needed: on
//! devices of threads' own, and on the one that they are meant for.

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
    let first_run = || Rehearsal::new(adapter)?.run_anew(pipeline);
    let Some(empty) = first_run().filter(|empty| *empty > COMPILED) else { return false };
    first_run().is_some_and(|full| full < empty / 2)
}

/// A device, with buffers to bind that nobody else has. A buffer that a submit binds and that nobody
/// has written yet is cleared in it, and wgpu 30 loses what another thread writes to it meanwhile:
/// those of a plan must not come here.
#[derive(Debug)]
pub(super) struct Rehearsal {
    device: wgpu::Device,
    queue: wgpu::Queue,
    uniform: wgpu::Buffer,
    read: wgpu::Buffer,
    written: wgpu::Buffer,
}

impl Rehearsal {
    /// On a device of its own, of the same adapter as the one that kernels are meant for. It compiles
    /// in a queue of its own, and what it compiled is in the driver's cache for all. None where the
    /// driver has no other device to give.
    pub fn new(adapter: &wgpu::Adapter) -> Option<Self> {
        let descriptor = super::Gpu::requirements(adapter).descriptor();
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).ok()?;
        Some(Self::on(device, queue))
    }

    /// On this device.
    pub fn on(device: wgpu::Device, queue: wgpu::Queue) -> Self {
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
        Self { uniform, read, written, device, queue }
    }

    /// Makes the pipeline for this device too, and runs it. What that takes is much where the driver
    /// compiles in it.
    pub fn run_anew(&self, pipeline: &Pipeline) -> Option<Duration> {
        unless_refused(&self.device, || {
            let pipeline = pipeline.on(&self.device);
            pipeline.get();
            let begun = Instant::now();
            self.submit(&pipeline);
            self.device.poll(wgpu::PollType::wait_indefinitely()).ok()?;
            Some(begun.elapsed())
        })
        .flatten()
    }

    /// Runs a pipeline that was made for this device.
    pub fn run(&self, pipeline: &Pipeline) {
        // What is refused is found again by whoever needs it.
        unless_refused(&self.device, || self.submit(pipeline));
    }

    /// Reads and writes nothing.
    fn submit(&self, pipeline: &Pipeline) {
        let bind_group = self.bind_group(pipeline);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline.get());
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(0, 0, 0);
        drop(pass);
        self.queue.submit([encoder.finish()]);
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
