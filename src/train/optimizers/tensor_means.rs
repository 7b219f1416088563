//! One number per tensor from partial sums per chunk: what some rules need to know of a whole
//! tensor before they move a weight.

use super::{Segment, SegmentTensor};
use crate::gpu::Gpu;
use crate::kernels::{
    Agreement, AgreementParams, MomentStatistics, MomentStatisticsParams, RULE_COMPLEMENT,
    RULE_INVERSE_AT_LEAST, TensorFactors, TensorFactorsParams, TensorRange,
};
use crate::record::{Recorder, to_u32};

/// The least mean of a cautious mask that counts, as in the authors' code.
const LEAST_AGREEMENT: f32 = 1e-3;

/// Partial sums of one segment's chunks, and which belong to which tensor.
pub(super) struct TensorMeans {
    pub partials: wgpu::Buffer,
    ranges: wgpu::Buffer,
    range_count: u32,
    /// (tensors) f32: the numbers, by row of the tensor table.
    pub factors: wgpu::Buffer,
}

/// The partials of a tensor's chunks.
pub(super) fn chunk_range(tensor: &SegmentTensor<'_>, target_index: u32) -> TensorRange {
    TensorRange {
        first: tensor.first_chunk,
        count: tensor.chunk_count,
        elements: to_u32(tensor.spec.shape.count()),
        target_index,
    }
}

impl TensorMeans {
    pub fn new(gpu: &Gpu, segment: &Segment<'_>) -> Self {
        let rows = segment.layout.iter().map(|tensor| tensor.index + 1).max().unwrap_or(0);
        let factors = gpu.buffer("tensor factors", 4 * u64::from(rows));
        Self::into(gpu, segment, factors)
    }

    /// With a buffer of the caller's for the numbers.
    fn into(gpu: &Gpu, segment: &Segment<'_>, factors: wgpu::Buffer) -> Self {
        let ranges: Vec<_> = segment.layout.iter().map(|t| chunk_range(t, t.index)).collect();
        Self {
            partials: gpu.buffer("partial sums", 4 * u64::from(segment.chunk_count)),
            ranges: gpu.upload("tensor ranges", &ranges),
            range_count: to_u32(ranges.len()),
            factors,
        }
    }

    /// Records what makes the numbers of the partial sums.
    pub fn record(&self, recorder: &mut Recorder<'_>, rule: u32, bound: f32) {
        recorder.dispatch(&TensorFactors {
            params: TensorFactorsParams { range_count: self.range_count, rule, bound },
            ranges: self.ranges.as_entire_buffer_binding(),
            partials: self.partials.as_entire_buffer_binding(),
            factors: self.factors.as_entire_buffer_binding(),
        });
    }
}

/// Records 1 / max(mean of the cautious mask, 1e-3) of each tensor: the factor on the elements that
/// the mask keeps. Returns where the factors are.
pub(super) fn record_agreement(
    recorder: &mut Recorder<'_>,
    segment: &Segment<'_>,
    beta1: f64,
) -> wgpu::Buffer {
    let means = TensorMeans::new(recorder.gpu(), segment);
    recorder.dispatch(&Agreement {
        params: AgreementParams {
            chunk_count: segment.chunk_count,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
        },
        state: recorder.step_state(),
        chunks: segment.chunks.as_entire_buffer_binding(),
        tensors: segment.tensors.as_entire_buffer_binding(),
        gradient: segment.gradient.as_entire_buffer_binding(),
        m: segment.moments[0].as_entire_buffer_binding(),
        partials: means.partials.as_entire_buffer_binding(),
    });
    means.record(recorder, RULE_INVERSE_AT_LEAST, LEAST_AGREEMENT);
    means.factors
}

/// Records the share of each tensor's elements whose root of the second moment is below eps.
pub(super) fn record_eps_shares(
    recorder: &mut Recorder<'_>,
    segment: &Segment<'_>,
    v: &wgpu::Buffer,
    eps: f64,
    shares: &wgpu::Buffer,
) {
    let means = TensorMeans::into(recorder.gpu(), segment, shares.clone());
    recorder.dispatch(&MomentStatistics {
        params: MomentStatisticsParams { chunk_count: segment.chunk_count, eps: eps as f32 },
        chunks: segment.chunks.as_entire_buffer_binding(),
        tensors: segment.tensors.as_entire_buffer_binding(),
        v: v.as_entire_buffer_binding(),
        partials: means.partials.as_entire_buffer_binding(),
    });
    means.record(recorder, RULE_COMPLEMENT, 0.0);
}
