//! What policies do: before the scan, between norm and verdict, and once the step is committed or
//! skipped.

use super::Pass;
use crate::error::Result;
use crate::graph::ParameterSpec;
use crate::kernels::TensorNorm;
use crate::plan::Parameters;
use crate::record::{Recorder, to_u32};
use crate::train::Norm;
use crate::train::chunk_tables::ChunkTables;
use crate::train::optimizers::Segment;
use crate::train::stability::{ActivePolicy, Committed, Judgement};

/// Policies that change gradients before they are scanned.
pub(super) struct BeforeScan<'a> {
    pub policies: &'a [ActivePolicy],
    pub segments: &'a [Segment<'a>],
}

impl Pass for BeforeScan<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        for active in self.policies {
            for segment in self.segments {
                active.policy.before_scan(recorder, segment);
            }
        }
        Ok(())
    }
}

/// Policies look at loss and norms, and set what the verdict obeys.
pub(super) struct Judge<'a> {
    pub policies: &'a [ActivePolicy],
    pub norm: Norm,
    pub tables: &'a ChunkTables,
    pub trained: &'a [ParameterSpec],
    pub loss: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
}

impl Judge<'_> {
    /// Records the norm of every tensor from what the scan left. Returns
    /// (tensors) [`TensorNorm`].
    fn record_tensor_norms(&self, recorder: &mut Recorder<'_>) -> wgpu::Buffer {
        let (gpu, count) = (recorder.gpu(), self.tables.of_tensor.len());
        let norm = self.norm.of_tensors();
        let norms = gpu.buffer("tensor norms", (count * size_of::<TensorNorm>()) as u64);
        let sums = gpu.buffer("tensor sums", count as u64 * norm.partial_bytes());
        let segments = gpu.upload("tensor partials", &self.tables.of_tensor);
        norm.record_fold(recorder, &self.tables.partials, &segments, count, [&sums, &norms]);
        norms
    }
}

impl Pass for Judge<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let elements: Vec<_> = self.trained.iter().map(|spec| spec.shape.count()).collect();
        let needs_norms = self.policies.iter().any(|active| active.policy.needs_tensor_norms());
        let tensor_norms = needs_norms.then(|| self.record_tensor_norms(recorder));
        for active in self.policies {
            let judgement = Judgement {
                loss: self.loss,
                tensors: self.tensors,
                tensor_count: to_u32(self.trained.len()),
                elements: &elements,
                tensor_norms: tensor_norms.as_ref(),
                memory: &active.memory,
            };
            active.policy.judge(recorder, &judgement);
        }
        Ok(())
    }
}

/// Policies that keep, or put back, what a step commits.
pub(super) struct AfterUpdate<'a> {
    pub policies: &'a [ActivePolicy],
    pub parameters: &'a Parameters,
    /// By trained segment, then by moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    /// By trained segment, or none.
    pub averages: &'a [wgpu::Buffer],
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
}

impl AfterUpdate<'_> {
    /// Bytes of all policies on the device beside their memories.
    pub fn bytes(&self) -> u64 {
        let bytes = self.policies.iter().map(|active| {
            let committed = self.committed(&active.memory).buffers().map(wgpu::Buffer::size);
            active.policy.device_bytes(committed.sum())
        });
        bytes.sum()
    }

    fn committed<'s>(&'s self, memory: &'s wgpu::Buffer) -> Committed<'s> {
        Committed {
            weights: self.parameters.trained_weights(),
            moments: self.moments,
            averages: self.averages,
            states: self.parameters.committed(),
            tensors: self.tensors,
            memory,
        }
    }
}

impl Pass for AfterUpdate<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        for active in self.policies {
            active.policy.after_update(recorder, &self.committed(&active.memory));
        }
        Ok(())
    }
}
