//! Kernels that frame a step: the loss scale goes in, the gradient is scanned, one verdict says
//! whether anything is committed, and a record is left.
//!
//! [`GradientScan`] and [`Verdict`] work on bits and integer exponents where it matters, so the
//! norm is right for every finite gradient and no test depends on NaN arithmetic.

use super::shared::{GRID, SCAN_FOLD, SCAN_PARTIAL, STEP_STATE, WIDE};
use crate::kernel::{Declaration, Kernel, grid};
use crate::step::Chunk;
use crate::{kernel, wgsl};

/// The most quads in one [`Chunk`]: 64 invocations with 8 quads each.
pub const CHUNK_QUADS: u32 = 512;

/// [`VerdictParams::norm`]: no clipping by norm; the L2 norm is still measured.
pub const NORM_NONE: u32 = 0;
/// [`VerdictParams::norm`]: clip by the L2 norm.
pub const NORM_L2: u32 = 1;
/// [`VerdictParams::norm`]: clip by the largest magnitude.
pub const NORM_MAX: u32 = 2;

/// Splits tensors, each (offset, elements) in elements of a flat buffer, into the shares of
/// workgroups. A chunk never spans two tensors; an empty tensor has none.
///
/// # Panics
/// If an offset is not a multiple of 4, or lies past 2^32 quads.
pub fn chunks(tensors: impl IntoIterator<Item = (u64, u64)>) -> Vec<Chunk> {
    const ELEMENTS: u64 = 4 * CHUNK_QUADS as u64;
    let mut chunks = Vec::new();
    for (tensor, (offset, elements)) in (0..).zip(tensors) {
        assert!(offset.is_multiple_of(4), "tensor {tensor} starts within a quad, at {offset}");
        for start in (0..elements).step_by(ELEMENTS as usize) {
            let share = (elements - start).min(ELEMENTS) as u32;
            chunks.push(Chunk {
                offset: u32::try_from((offset + start) / 4).expect("at most 2^32 quads"),
                quads: share.div_ceil(4),
                tensor,
                elements: share,
            });
        }
    }
    chunks
}

kernel! {
    /// Largest magnitude, scaled sum of squares and counts of each chunk of the gradient.
    pub GradientScan = [
        STEP_STATE, GRID, WIDE, SCAN_PARTIAL, SCAN_FOLD,
        wgsl!("../../shaders/gradient_scan.wgsl"),
    ];
    workgroup [64, 1, 1];
    grid |params| grid(params.chunk_count);
    uniform GradientScanParams {
        /// Rows of the chunk table.
        chunk_count: u32,
    }
    buffers {
        /// (chunk_count) [`Chunk`]
        Read chunks,
        /// Flat gradient in quads; padding is zero.
        Read gradient,
        /// (chunk_count) [`ScanPartial`](crate::step::ScanPartial), overwritten.
        Write partials,
    }
}

kernel! {
    /// Global norm, clip coefficient and verdict; advances the state.
    ///
    /// A gradient with a NaN or Inf gives [`SKIP`](crate::step::SKIP): norm, counts, reason and
    /// skip counters are written and the rest of the state stays as it was.
    pub Verdict = [STEP_STATE, WIDE, SCAN_PARTIAL, SCAN_FOLD, wgsl!("../../shaders/verdict.wgsl")];
    workgroup [256, 1, 1];
    grid |_params| [1, 1, 1];
    uniform VerdictParams {
        /// Partials; 0 is a norm of 0.
        partial_count: u32,
        /// [`NORM_NONE`], [`NORM_L2`] or [`NORM_MAX`].
        norm: u32,
        /// Norms above are clipped to it.
        max_norm: f32,
        /// Bound on each |gradient| after the norm clip. 1e18 is the most, and off.
        clip_value: f32,
        /// Decay of the first moment, for its bias correction.
        beta1: f32,
        /// 1 - beta1, rounded once.
        one_minus_beta1: f32,
        /// Decay of the second moment, for its bias correction.
        beta2: f32,
        /// 1 - beta2, rounded once.
        one_minus_beta2: f32,
        /// Length of the learning rates, at least 1.
        schedule_length: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (partial_count) [`ScanPartial`](crate::step::ScanPartial)
        Read partials,
        /// (schedule_length): the first applied step takes element 0, the one after t applied
        /// steps takes element t, those past the end the last.
        Read learning_rates,
        /// (1) [`StepState`](crate::step::StepState), advanced.
        Write state,
    }
}

kernel! {
    /// y = loss_scale * factor: where the backward pass starts.
    pub SeedGradient = [STEP_STATE, wgsl!("../../shaders/seed_gradient.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform SeedGradientParams {
        /// Weight of the loss, such as 1 / microbatches.
        factor: f32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1), overwritten.
        Write y,
    }
}

kernel! {
    /// committed = staged where the step is applied, else nothing is written.
    pub Commit = [STEP_STATE, GRID, wgsl!("../../shaders/commit.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform CommitParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (quads), of any 4-byte type.
        Read staged,
        /// (quads), overwritten or left alone.
        Write committed,
    }
}

kernel! {
    /// Records the step in the ring.
    pub Telemetry = [STEP_STATE, wgsl!("../../shaders/telemetry.wgsl")];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform TelemetryParams {
        /// Records in the ring.
        capacity: u32,
    }
    buffers {
        /// (1) [`StepInput`](crate::step::StepInput)
        Read input,
        /// (1) [`StepState`](crate::step::StepState)
        Read state,
        /// (1) f32
        Read loss,
        /// (capacity) [`TelemetryRecord`](crate::step::TelemetryRecord), one overwritten.
        Write ring,
    }
}

kernel! {
    /// y = factor * x, or y += factor * x.
    pub Accumulate = [GRID, wgsl!("../../shaders/accumulate.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform AccumulateParams {
        /// Quads of f32 in each buffer.
        quads: u32,
        /// Factor on x.
        factor: f32,
        /// 0 overwrites y, 1 adds to it.
        accumulate: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten or added to.
        Write y,
    }
}

/// Every kernel of this family.
pub(super) const ALL: &[Declaration] = &[
    GradientScan::DECLARATION,
    Verdict::DECLARATION,
    SeedGradient::DECLARATION,
    Commit::DECLARATION,
    Telemetry::DECLARATION,
    Accumulate::DECLARATION,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once() {
        let mut offset = 0;
        let tensors: Vec<_> = [0, 1, 4, 2047, 2048, 2049, 0, 65_537, 3, 0]
            .into_iter()
            .map(|elements: u64| {
                let tensor = (offset, elements);
                offset += elements.next_multiple_of(4);
                tensor
            })
            .collect();
        let mut covered = vec![0; tensors.len()];
        for chunk in chunks(tensors.iter().copied()) {
            let (offset, elements) = tensors[chunk.tensor as usize];
            let done = &mut covered[chunk.tensor as usize];
            assert_eq!(u64::from(chunk.offset) * 4, offset + *done, "{chunk:?}");
            assert_eq!(chunk.quads, chunk.elements.div_ceil(4), "{chunk:?}");
            assert!((1..=CHUNK_QUADS).contains(&chunk.quads), "{chunk:?}");
            *done += u64::from(chunk.elements);
            assert!(*done <= elements, "{chunk:?}");
        }
        let elements: Vec<_> = tensors.iter().map(|&(_, elements)| elements).collect();
        assert_eq!(covered, elements);
    }

    #[test]
    #[should_panic(expected = "starts within a quad")]
    fn chunks_refuse_an_offset_within_a_quad() {
        chunks([(0, 2), (2, 2)]);
    }

    #[test]
    fn chunks_reach_past_4_gib() {
        let far = chunks([(1 << 33, 5)]);
        assert_eq!(far, [Chunk { offset: 1 << 31, quads: 2, tensor: 0, elements: 5 }]);
    }
}
