//! Which workgroup of a scan owns what, and where it leaves what it found.

use crate::gpu::{ALIGNMENT, Gpu};
use crate::kernels::{Segment, chunks};
use crate::plan::Parameters;
use crate::record::to_u32;
use crate::step::Chunk;
use crate::train::optimizers::SegmentTensor;

/// The chunks of parameters, with one partial for each.
pub(super) struct ChunkTables {
    /// By segment of the parameters.
    pub segments: Vec<SegmentTable>,
    /// All partials. Those of a segment start where a binding may; those between stay zero.
    pub partials: wgpu::Buffer,
    /// Partials, those between included.
    pub partial_count: u32,
    /// The partials of each tensor.
    pub of_tensor: Vec<Segment>,
    partial_bytes: u64,
}

/// The chunks of one segment.
pub(super) struct SegmentTable {
    /// (chunk_count) [`Chunk`]
    pub chunks: wgpu::Buffer,
    pub chunk_count: u32,
    /// First partial.
    first: u64,
}

impl ChunkTables {
    /// Tables for a scan of trained tensors that leaves partials of this size.
    pub fn of_trained(gpu: &Gpu, parameters: &Parameters, partial_bytes: u64) -> Self {
        let segments = parameters.trained_segments().len();
        Self::new(gpu, parameters, segments, parameters.trained().len(), partial_bytes)
    }

    /// The same for frozen tensors as well.
    pub fn of_all(gpu: &Gpu, parameters: &Parameters, partial_bytes: u64) -> Self {
        let segments = parameters.segments().len();
        Self::new(gpu, parameters, segments, parameters.specs().len(), partial_bytes)
    }

    fn new(
        gpu: &Gpu,
        parameters: &Parameters,
        segment_count: usize,
        tensor_count: usize,
        partial_bytes: u64,
    ) -> Self {
        // As many partials as fill whole alignments, also where one of them does not divide it.
        let power_of_two = 1 << partial_bytes.trailing_zeros();
        let per_alignment = ALIGNMENT / ALIGNMENT.min(power_of_two);
        let (mut segments, mut first) = (Vec::new(), 0);
        let mut of_tensor = vec![Segment::default(); tensor_count];
        for segment in 0..segment_count {
            let table = chunks_of(&SegmentTensor::of_segment(parameters.layout(), segment));
            for (partial, chunk) in (first..).zip(&table) {
                let part = &mut of_tensor[chunk.tensor as usize];
                if part.count == 0 {
                    part.first = to_u32(partial as usize);
                }
                // Between the parts of a tensor that spans segments lie partials of nothing.
                part.count = to_u32(partial as usize) - part.first + 1;
            }
            let chunk_count = to_u32(table.len());
            segments.push(SegmentTable {
                chunks: gpu.upload("chunks", &table),
                chunk_count,
                first,
            });
            first += u64::from(chunk_count).next_multiple_of(per_alignment);
        }
        let count = first.max(per_alignment);
        let partials = gpu.buffer("scan partials", count * partial_bytes);
        Self { segments, partials, partial_count: to_u32(count as usize), of_tensor, partial_bytes }
    }

    /// Where the workgroups of a segment leave what they find.
    pub fn partials_of(&self, segment: usize) -> wgpu::BufferBinding<'_> {
        let offset = self.segments[segment].first * self.partial_bytes;
        wgpu::BufferBinding { buffer: &self.partials, offset, size: None }
    }
}

/// The chunks of tensors of one segment. The padding of a tensor's rows counts as elements: it holds
/// zeros in weights, gradients and moments alike.
pub(super) fn chunks_of(tensors: &[SegmentTensor<'_>]) -> Vec<Chunk> {
    let mut table = Vec::new();
    for tensor in tensors {
        let place = (4 * u64::from(tensor.offset), 4 * u64::from(tensor.quads()));
        table.extend(chunks([place]).into_iter().map(|chunk| {
            let kept = tensor.kept + (chunk.offset - tensor.offset);
            Chunk { tensor: tensor.index, kept, ..chunk }
        }));
    }
    table
}
