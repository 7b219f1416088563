//! What follows the gradients in every step: a list of passes, each with a file of its own.
//!
//! ```text
//! policies (before the scan) | scan | norm | policies | verdict | optimizer | layers | average |
//! commit | policies (after the update) | telemetry
//! ```
//!
//! The number of their dispatches depends on the segments of the flat buffers, not on the tensors.

mod average;
mod commit;
mod initial;
mod layers;
mod norm;
mod optimizer;
mod policies;
mod scan;
mod telemetry;
mod verdict;

use std::collections::HashMap;

pub(super) use norm::ScanPass;

use super::average::Average;
use super::chunk_tables::ChunkTables;
use super::optimizers::{Segment, SegmentTensor};
use super::ranks::{OwnSegment, Shards};
use super::stability::ActivePolicy;
use super::{Clip, LossScale, Norm, Optimizer, Schedule, TelemetryRing};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Origin, Stage};
use crate::graph::{Graph, Value};
use crate::plan::{Parameters, Sinks, parameters};
use crate::record::{Recorder, Slot, StepBuffers, to_u32};

/// One of the passes.
trait Pass {
    /// Records its dispatches, if it has any.
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()>;
}

/// What an update is made of.
pub(super) struct Update<'a> {
    pub gpu: &'a Gpu,
    pub parameters: &'a Parameters,
    pub sinks: &'a Sinks,
    /// By trained segment, then by moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    /// Which of the trained tensors they are of.
    pub shards: &'a Shards,
    /// Of the trained weights, where it is kept.
    pub average: Option<&'a Average>,
    pub step: &'a StepBuffers,
    /// (trained tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    pub optimizer: &'a dyn Optimizer,
    pub norm: Norm,
    pub clip: Clip,
    pub loss_scale: LossScale,
    /// Skipped steps in a row; 0 for never.
    pub give_up_after: u32,
    pub policies: &'a [ActivePolicy],
    pub schedule: &'a Schedule,
    pub loss: &'a wgpu::Buffer,
    pub ring: &'a TelemetryRing,
    /// Whose layers act after the update.
    pub graph: &'a Graph,
    /// Where the plan put its values.
    pub values: &'a HashMap<Value, Slot>,
}

/// The dispatches of an update.
pub(super) struct Recorded {
    pub update: Vec<Dispatch>,
    /// How many of them there are until weights and moments have advanced.
    pub advanced: usize,
}

impl Update<'_> {
    /// Records the passes, once the initial parameters are found to be finite.
    pub async fn record(&self) -> Result<Recorded> {
        let (gpu, step, parameters) = (self.gpu, self.step, self.parameters);
        initial::check(gpu, step, parameters, &self.sinks.gradients).await?;
        self.clear_gradients();

        let tables = &ChunkTables::of_trained(gpu, parameters, self.norm.partial_bytes());
        let layouts: Vec<_> = (0..parameters.trained_segments().len())
            .map(|index| SegmentTensor::of_segment(parameters.layout(), index))
            .collect();
        let layouts = layouts.iter().enumerate();
        let segments: Vec<_> =
            layouts.map(|(index, layout)| self.segment(tables, index, layout)).collect();
        let own = match self.shards.is_cut() {
            true => OwnSegment::all(gpu, parameters.layout(), self.shards),
            false => Vec::new(),
        };
        let advanced: Vec<_> = match self.shards.is_cut() {
            true => own.iter().zip(&segments).filter_map(|(own, whole)| own.of(whole)).collect(),
            false => segments.clone(),
        };
        let schedule = self.schedule.table(self.optimizer.learning_rate())?;
        let rates = verdict::upload_rates(gpu, &schedule).await?;
        let tensor_count = to_u32(parameters.trained().len());
        let after_update = self.after_update();
        let advance: [&dyn Pass; 6] = [
            &policies::BeforeScan { policies: self.policies, segments: &segments },
            &scan::Scan {
                norm: self.norm,
                tables,
                gradients: &self.sinks.gradients,
                overflow_bits: scan::overflow_bits(self.loss_scale),
            },
            &norm::GlobalNorm {
                norm: self.norm,
                scan: ScanPass {
                    partials: &tables.partials,
                    partial_count: tables.partial_count,
                    tensors: self.tensors,
                    tensor_count,
                },
                max_norm: self.clip.max_norm(),
            },
            &policies::Judge {
                policies: self.policies,
                norm: self.norm,
                tables,
                trained: parameters.trained(),
                loss: self.loss,
                tensors: self.tensors,
            },
            &verdict::Close {
                params: verdict::params(self, &schedule),
                rates: &rates,
                step,
                loss: self.loss,
                staged: &self.sinks.staged,
                tensors: self.tensors,
            },
            &optimizer::Advance { optimizer: self.optimizer, segments: &advanced },
        ];
        let follow: [&dyn Pass; 5] = [
            &layers::AfterUpdates { graph: self.graph, values: self.values, parameters },
            &average::AverageUpdate { average: self.average, parameters },
            &commit::CommitStates {
                graph: self.graph,
                parameters,
                staged: &self.sinks.staged,
                step,
            },
            &after_update,
            &telemetry::Report { step, loss: self.loss, ring: self.ring },
        ];
        // Passes look at weights, or change them.
        let mut recorder = Recorder::new(gpu, step);
        recorder.set_variant(parameters.storage());
        recorder.set_origin(Origin::of_step("update", Stage::Update));
        let mut record = |passes: &[&dyn Pass]| -> Result<Vec<Dispatch>> {
            passes.iter().try_for_each(|pass| pass.record(&mut recorder))?;
            Ok(recorder.take())
        };
        let record = || -> Result<_> { Ok((record(&advance)?, record(&follow)?)) };
        let what = "what optimizer and policies keep for themselves";
        let (mut update, follow) =
            parameters::allocate(gpu, what, after_update.bytes(), record).await??;
        let advanced = update.len();
        update.extend(follow);
        Ok(Recorded { update, advanced })
    }

    /// Bytes of all policies on the device beside their memories.
    pub fn policy_bytes(&self) -> u64 {
        self.after_update().bytes()
    }

    fn after_update(&self) -> policies::AfterUpdate<'_> {
        policies::AfterUpdate {
            policies: self.policies,
            parameters: self.parameters,
            moments: self.moments,
            averages: self.average.map_or(&[], |average| &average.values),
            tensors: self.tensors,
        }
    }

    /// A parameter that no loss depends on keeps a gradient of zero.
    fn clear_gradients(&self) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for gradient in &self.sinks.gradients {
            encoder.clear_buffer(gradient, 0, None);
        }
        self.gpu.submit(encoder);
    }

    fn segment<'s>(
        &'s self,
        tables: &'s ChunkTables,
        index: usize,
        layout: &'s [SegmentTensor<'s>],
    ) -> Segment<'s> {
        let table = &tables.segments[index];
        Segment {
            chunks: &table.chunks,
            chunk_count: table.chunk_count,
            tensors: self.tensors,
            gradient: &self.sinks.gradients[index],
            weight: &self.parameters.weights()[index],
            moments: &self.moments[index],
            layout,
        }
    }
}
