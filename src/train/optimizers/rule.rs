//! What an optimizer comes down to: a kernel in the frame of all optimizers, and its numbers.

use super::Segment;
use crate::kernel::{AnyKernel, Declaration, grid};
use crate::kernels::UpdateParams;
use crate::record::Recorder;

/// One update of a segment of the parameters, described: a kernel that
/// [`update_rule!`](crate::update_rule!) declares, its uniform, and what it binds.
///
/// The kernel's own buffers are the segment's moments, in their order, but for those that were
/// [bound](Self::bind) by name. Where there are fewer moments the rest are bound to a small buffer,
/// for rules that then leave them alone.
#[derive(Clone, Debug)]
pub struct Rule {
    kernel: &'static Declaration,
    uniform: Vec<u8>,
    chunk_count: u32,
    bound: Vec<(&'static str, wgpu::Buffer)>,
}

impl Rule {
    /// The kernel that these are the parameters of.
    pub fn new<P: UpdateParams>(params: P) -> Self {
        Self {
            kernel: const { &P::KERNEL },
            uniform: bytemuck::bytes_of(&params).to_vec(),
            chunk_count: params.chunk_count(),
            bound: Vec::new(),
        }
    }

    /// Binds a whole buffer to the kernel's of this name, in place of the segment's where that has
    /// one.
    ///
    /// # Panics
    /// If the kernel has none of this name.
    #[must_use]
    pub fn bind(mut self, name: &'static str, buffer: &wgpu::Buffer) -> Self {
        let known = self.kernel.buffers.iter().any(|(other, _)| *other == name);
        assert!(known, "kernel {} has no buffer {name}", self.kernel.name);
        self.bound.push((name, buffer.clone()));
        self
    }

    /// Records the update.
    pub fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let (state, mut moments) = (recorder.step_state().buffer.clone(), segment.moments.iter());
        let mut buffer = |&(name, _): &(&'static str, _)| {
            let bound = self.bound.iter().find(|(other, _)| *other == name);
            let buffer = bound.map(|(_, buffer)| buffer).or(match name {
                "state" => Some(&state),
                "chunks" => Some(segment.chunks),
                "tensors" => Some(segment.tensors),
                "gradient" => Some(segment.gradient),
                "weight" => Some(segment.weight),
                _ => moments.next(),
            });
            buffer.cloned().unwrap_or_else(|| recorder.unused())
        };
        let buffers: Vec<_> = self.kernel.buffers.iter().map(&mut buffer).collect();
        recorder.dispatch_any(&AnyKernel {
            declaration: self.kernel,
            buffers: buffers.iter().map(wgpu::Buffer::as_entire_buffer_binding).collect(),
            uniform: &self.uniform,
            overrides: Vec::new(),
            grid: grid(self.chunk_count),
        });
    }
}
