//! Which norm of the gradients is measured, and clipped by.

use super::chunk_tables::{ChunkTables, SegmentTable};
use super::update::ScanPass;
use crate::error::{Error, Result};
use crate::kernels::{
    ExactFold, ExactFoldParams, ExactSum, GlobalNorm, GlobalNormParams, GradientNorm,
    GradientNormParams, GradientScan, GradientScanExact, GradientScanExactParams,
    GradientScanParams, GradientScanPower, GradientScanPowerParams, NORM_L2, NORM_MAX, NormFold,
    NormFoldParams, Segment, TensorNorm,
};
use crate::record::{Recorder, to_u32};
use crate::step::ScanPartial;

/// The norm of all gradients together that a step measures. No finite gradient makes one overflow
/// or vanish.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Norm {
    /// Root of the sum of squares, in f32 with its exponents apart: within 3e-6 of the true norm,
    /// and the same bits in every run on one adapter.
    #[default]
    L2,
    /// The same, exact: squares are added up as integers of 640 bits and the root is rounded once,
    /// so it has the same bits on every adapter, whatever the order of the elements. The scan takes
    /// about twice as long.
    ExactL2,
    /// The sum of magnitudes.
    L1,
    /// (Σ |g|^p)^(1/p), for p above 0.
    Lp(f32),
    /// The largest magnitude.
    Infinity,
}

impl Norm {
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::Lp(p) if !(p > 0.0 && p.is_finite()) => Err(Error::Setting {
                setting: "p of the Lp norm",
                value: p.to_string(),
                range: "finite and above 0",
            }),
            _ => Ok(()),
        }
    }

    /// What tensors are measured by, from the same scan: L2 where the largest magnitude is the
    /// norm of all.
    pub(super) fn of_tensors(self) -> Self {
        if self == Self::Infinity { Self::L2 } else { self }
    }

    /// Whether [`of_tensors`](Self::of_tensors) is an L2 norm.
    pub(super) fn measures_l2(self) -> bool {
        !matches!(self, Self::L1 | Self::Lp(_))
    }

    fn power(self) -> f32 {
        match self {
            Self::L1 => 1.0,
            Self::Lp(p) => p,
            Self::L2 | Self::ExactL2 | Self::Infinity => 2.0,
        }
    }

    /// Bytes that the scan leaves for one chunk.
    pub(super) fn partial_bytes(self) -> u64 {
        match self {
            Self::ExactL2 => size_of::<ExactSum>() as u64,
            _ => size_of::<ScanPartial>() as u64,
        }
    }

    /// Records the scan of one segment.
    pub(super) fn record_scan(
        self,
        recorder: &mut Recorder<'_>,
        tables: &ChunkTables,
        segment: usize,
        gradient: &wgpu::Buffer,
        overflow_bits: u32,
    ) {
        let partials = tables.partials_of(segment);
        let SegmentTable { chunks, chunk_count, .. } = &tables.segments[segment];
        let (chunks, chunk_count) = (chunks.as_entire_buffer_binding(), *chunk_count);
        let gradient = gradient.as_entire_buffer_binding();
        match self {
            Self::L2 | Self::Infinity => recorder.dispatch(&GradientScan {
                params: GradientScanParams { chunk_count, overflow_bits },
                chunks,
                gradient,
                partials,
            }),
            Self::ExactL2 => recorder.dispatch(&GradientScanExact {
                params: GradientScanExactParams { chunk_count, overflow_bits },
                chunks,
                gradient,
                partials,
            }),
            Self::L1 | Self::Lp(_) => recorder.dispatch(&GradientScanPower {
                params: GradientScanPowerParams { chunk_count, overflow_bits, power: self.power() },
                chunks,
                gradient,
                partials,
            }),
        }
    }

    /// Records what makes the norm of all partials and opens the step.
    pub(super) fn record(self, recorder: &mut Recorder<'_>, pass: &ScanPass<'_>, max_norm: f32) {
        let state = recorder.step_state();
        let (tensors, tensor_count) = (pass.tensors.as_entire_buffer_binding(), pass.tensor_count);
        if matches!(self, Self::L2 | Self::Infinity) {
            recorder.dispatch(&GradientNorm {
                params: GradientNormParams {
                    partial_count: pass.partial_count,
                    tensor_count,
                    norm: if self == Self::L2 { NORM_L2 } else { NORM_MAX },
                    max_norm,
                },
                partials: pass.partials.as_entire_buffer_binding(),
                tensors,
                state,
            });
            return;
        }
        let gpu = recorder.gpu();
        let norm = gpu.buffer("norm", size_of::<TensorNorm>() as u64);
        let sum = gpu.buffer("norm sum", self.partial_bytes());
        let everything = [Segment { first: 0, count: pass.partial_count }];
        let segments = gpu.upload("norm segment", &everything);
        self.record_fold(recorder, pass.partials, &segments, everything.len(), [&sum, &norm]);
        recorder.dispatch(&GlobalNorm {
            params: GlobalNormParams { tensor_count, max_norm },
            norm: norm.as_entire_buffer_binding(),
            tensors,
            state,
        });
    }

    /// Records the fold of partials into the sum and the norm of each segment.
    pub(super) fn record_fold(
        self,
        recorder: &mut Recorder<'_>,
        partials: &wgpu::Buffer,
        segments: &wgpu::Buffer,
        count: usize,
        [sums, norms]: [&wgpu::Buffer; 2],
    ) {
        let (segment_count, bind) = (to_u32(count), wgpu::Buffer::as_entire_buffer_binding);
        let [segments, sums, norms] = [segments, sums, norms].map(bind);
        if self == Self::ExactL2 {
            recorder.dispatch(&ExactFold {
                params: ExactFoldParams { segment_count, indirect: 0 },
                members: segments.clone(),
                segments,
                parts: bind(partials),
                sums,
                norms,
            });
        } else {
            recorder.dispatch(&NormFold {
                params: NormFoldParams {
                    segment_count,
                    indirect: 0,
                    largest: u32::from(self == Self::Infinity),
                    power: self.power(),
                },
                members: segments.clone(),
                segments,
                partials: bind(partials),
                sums,
                norms,
            });
        }
    }
}
