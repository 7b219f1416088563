//! Where what is kept of some of the tensors lies packed.

use crate::gpu::Gpu;
use crate::kernels::chunks;
use crate::record::to_u32;
use crate::step::Chunk;
use crate::train::optimizers::{Rule, SegmentTensor};

/// The chunks of some of the tensors, and where what is kept of them lies packed.
pub(super) struct Packed {
    pub chunks: wgpu::Buffer,
    /// By chunk, the first quad.
    pub offsets: wgpu::Buffer,
    pub chunk_count: u32,
}

impl Packed {
    pub fn new(gpu: &Gpu, tensors: &[SegmentTensor<'_>], base: u32) -> Self {
        let (chunks, offsets) = packed_chunks(tensors, base);
        Self {
            chunks: gpu.upload("packed chunks", &chunks),
            offsets: gpu.upload("packed offsets", &offsets),
            chunk_count: to_u32(chunks.len()),
        }
    }

    pub fn bind(&self, rule: Rule) -> Rule {
        rule.bind("chunks", &self.chunks).bind("packed", &self.offsets)
    }
}

/// The chunks of these tensors in the flat buffers, and for each its first quad where the tensors
/// lie one after the other from `base` on.
pub(super) fn packed_chunks(tensors: &[SegmentTensor<'_>], base: u32) -> (Vec<Chunk>, Vec<u32>) {
    let (mut table, mut packed, mut first) = (Vec::new(), Vec::new(), base);
    for tensor in tensors {
        let place = (4 * u64::from(tensor.offset), 4 * u64::from(tensor.quads()));
        for chunk in chunks([place]) {
            packed.push(first + chunk.offset - tensor.offset);
            table.push(Chunk { tensor: tensor.index, ..chunk });
        }
        first += tensor.quads();
    }
    (table, packed)
}
