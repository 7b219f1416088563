//! What each tensor held in a step: gradient, weights and their change, measured on the device
//! every few steps and read later.
//!
//! A watched step copies the weights before its update and scans gradient, old and new weights
//! after it, 20 bytes per parameter more than the update itself moves; other steps cost nothing.

use std::collections::BTreeMap;

use super::chunk_tables::{ChunkTables, SegmentTable};
use super::optimizers::{self, Optimizer, SegmentTensor};
use super::ranks::{OwnSegment, Shards};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Origin, Stage};
use crate::kernels::{
    LoadWeights, LoadWeightsParams, TensorTelemetry as TensorTelemetryKernel,
    TensorTelemetryParams, UpdateScan, UpdateScanParams,
};
use crate::plan::{Parameters, Sinks, parameters};
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::step::{TensorRecord, UpdatePartial};

/// Watched steps the ring holds before old ones are overwritten.
const CAPACITY: u32 = 64;

/// One tensor in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorTelemetry {
    /// Number of the step, counted from 0, skipped ones included.
    pub step: u64,
    /// Name of the parameter.
    pub name: String,
    /// L2 norm of the unscaled gradient before clipping, over its finite elements.
    pub gradient_norm: f64,
    /// Largest finite |gradient|, unscaled.
    pub largest_gradient: f64,
    /// Gradient elements that are NaN or Inf.
    pub nonfinite_count: u32,
    /// Gradient elements that are zero.
    pub zero_count: u32,
    /// Root of the mean square of the weights after the update.
    pub weight_rms: f64,
    /// Largest |weight|.
    pub largest_weight: f64,
    /// Root of the mean square of the changes of the weights; 0 in a skipped step.
    pub update_rms: f64,
    /// `update_rms / weight_rms`: about 1e-3 in a healthy run. 0 where the weights are zero.
    pub update_to_weight: f64,
    /// Share of the weights that did not change although their gradient is not zero: their change
    /// was below half a unit of the storage, with what it keeps beside the weights.
    pub frozen_share: f64,
    /// Share of the gradient elements that a clip by value, or the guard of 1e18, cut.
    pub clipped_share: f64,
    /// Share of the elements whose second moment, corrected, has a root below eps: their updates
    /// are smaller than their gradients ask for. `None` for an optimizer without such an eps, and for a
    /// tensor that is larger than a binding, or whose moments several ranks keep.
    pub eps_share: Option<f64>,
}

impl TensorTelemetry {
    /// Above this share below eps, a record carries a warning.
    pub const EPS_SHARE_BOUND: f64 = 0.5;

    /// A warning in words where eps holds back more than [`EPS_SHARE_BOUND`](Self::EPS_SHARE_BOUND)
    /// of the tensor.
    pub fn eps_warning(&self) -> Option<String> {
        let share = self.eps_share.filter(|&share| share > Self::EPS_SHARE_BOUND)?;
        let (name, percent) = (&self.name, 100.0 * share);
        Some(format!(
            "eps holds back {percent:.0} % of {name}: its gradients are below eps; lower eps, or \
             raise the loss scale if they underflow"
        ))
    }
}

/// L2 norms of the gradients of groups of tensors in one step, from those of the tensors: `group`
/// names the group of a parameter, such as its block or its kind.
pub fn group_norms<'a>(
    tensors: impl IntoIterator<Item = &'a TensorTelemetry>,
    group: impl Fn(&'a str) -> &'a str,
) -> BTreeMap<&'a str, f64> {
    let mut norms: BTreeMap<&str, f64> = BTreeMap::new();
    for tensor in tensors {
        let norm = norms.entry(group(&tensor.name)).or_default();
        *norm = norm.hypot(tensor.gradient_norm);
    }
    norms
}

/// What is watched, and who updates it: trained tensors.
pub(super) struct Watched<'a> {
    pub step: &'a StepBuffers,
    pub parameters: &'a Parameters,
    pub sinks: &'a Sinks,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    pub optimizer: &'a dyn Optimizer,
    /// By segment, then by moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    /// Which of the trained tensors they are of.
    pub shards: &'a Shards,
}

/// What the records do not say of a tensor.
#[derive(Debug)]
struct Description {
    name: String,
    elements: usize,
    /// Elements of padding.
    padding: usize,
    /// Optimizers measure the parts of a tensor one by one, and the share of the last would stand
    /// for all.
    is_in_parts: bool,
}

/// The ring, and what fills it.
#[derive(Debug)]
pub(super) struct TensorWatch {
    pub every: u32,
    capacity: u32,
    /// f32 weights before the update, by segment.
    old: Vec<wgpu::Buffer>,
    /// Before the update of a watched step: keep the weights.
    pub keep: Vec<Dispatch>,
    /// After the update of a watched step; the last one makes the records.
    pub dispatches: Vec<Dispatch>,
    /// (tensors) f32: the shares below eps, below 0 where they are not known.
    pub eps_shares: wgpu::Buffer,
    ring: wgpu::Buffer,
    tensors: Vec<Description>,
    /// First step whose record was not read yet.
    read: u64,
}

impl TensorWatch {
    pub async fn new(gpu: &Gpu, watched: &Watched<'_>, every: u32) -> Result<Self> {
        let bytes = watched.parameters.trained_segments().iter().map(|quads| 16 * quads).sum();
        let what = "a copy of the weights to watch tensors by";
        parameters::allocate(gpu, what, bytes, || Self::record(gpu, watched, every)).await
    }

    fn record(gpu: &Gpu, watched: &Watched<'_>, every: u32) -> Self {
        let &Watched { step, parameters, sinks, tensors, optimizer, moments, shards } = watched;
        let count = parameters.trained().len();
        let capacity = capacity(count, gpu.largest_binding());
        let ring = gpu.buffer("tensor telemetry", ring_bytes(count, gpu.largest_binding()));
        let weights = parameters.trained_weights();
        let quads = parameters.trained_segments().iter();
        let old: Vec<_> = quads.map(|quads| gpu.buffer("old weights", 16 * quads)).collect();

        let tables = ChunkTables::of_trained(gpu, parameters, size_of::<UpdatePartial>() as u64);
        let segments = gpu.upload("chunks of tensors", &tables.of_tensor);
        let mut recorder = Recorder::new(gpu, step);
        recorder.set_variant(parameters.storage());
        recorder.set_origin(Origin::of_step("tensor_telemetry", Stage::Prologue));
        for ((weight, old), &quads) in weights.iter().zip(&old).zip(parameters.trained_segments()) {
            recorder.dispatch(&LoadWeights {
                params: LoadWeightsParams { quads: to_u32(quads as usize) },
                weight: weight.as_entire_buffer_binding(),
                y: old.as_entire_buffer_binding(),
            });
        }
        let keep = recorder.take();
        recorder.set_origin(Origin::of_step("tensor_telemetry", Stage::Update));
        let state = recorder.step_state();
        // Below 0: unknown.
        let own = match shards.is_cut() {
            true => OwnSegment::all(gpu, parameters.layout(), shards),
            false => Vec::new(),
        };
        let eps_shares = gpu.upload("eps shares", &vec![-1.0f32; count.max(1)]);
        for (index, SegmentTable { chunks, chunk_count, .. }) in tables.segments.iter().enumerate()
        {
            let chunk_count = *chunk_count;
            let segment = optimizers::Segment {
                chunks,
                chunk_count,
                tensors,
                gradient: &sinks.gradients[index],
                weight: &weights[index],
                moments: &moments[index],
                layout: &SegmentTensor::of_segment(parameters.layout(), index),
            };
            let kept = own.get(index).map_or(Some(segment), |own| own.of(&segment));
            if let Some(kept) = kept {
                optimizer.record_eps_shares(&mut recorder, &kept, &eps_shares);
            }
            recorder.dispatch(&UpdateScan {
                params: UpdateScanParams { chunk_count },
                state: state.clone(),
                chunks: chunks.as_entire_buffer_binding(),
                tensors: tensors.as_entire_buffer_binding(),
                gradient: sinks.gradients[index].as_entire_buffer_binding(),
                old: old[index].as_entire_buffer_binding(),
                weight: weights[index].as_entire_buffer_binding(),
                partials: tables.partials_of(index),
            });
        }
        let input = recorder.step_input();
        recorder.dispatch(&TensorTelemetryKernel {
            params: TensorTelemetryParams { tensor_count: to_u32(count), every, capacity },
            input,
            state,
            segments: segments.as_entire_buffer_binding(),
            partials: tables.partials.as_entire_buffer_binding(),
            eps_shares: eps_shares.as_entire_buffer_binding(),
            ring: ring.as_entire_buffer_binding(),
        });
        let describe = |(index, spec): (usize, &crate::graph::ParameterSpec)| {
            let (name, elements) = (spec.name.clone(), spec.shape.count());
            let (padding, is_in_parts) =
                (4 * spec.shape.quads() - elements, parameters.is_in_parts(index));
            Description { name, elements, padding, is_in_parts }
        };
        let tensors = parameters.trained().iter().enumerate().map(describe).collect();
        let dispatches = recorder.take();
        Self { every, capacity, old, keep, dispatches, eps_shares, ring, tensors, read: 0 }
    }

    /// Bytes of the copy of the weights.
    pub fn bytes(&self) -> u64 {
        self.old.iter().map(wgpu::Buffer::size).sum()
    }

    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring.size()
    }

    pub fn is_watched(&self, step: u64) -> bool {
        step.is_multiple_of(u64::from(self.every))
    }

    /// Forgets what came before `step`.
    pub fn start_at(&mut self, step: u64) {
        self.read = step;
    }

    /// The records of watched steps before `attempted` that were not read yet, as far as the ring
    /// still holds them.
    pub async fn read(&mut self, gpu: &Gpu, attempted: u64) -> Result<Vec<TensorTelemetry>> {
        let every = u64::from(self.every);
        let end = attempted.div_ceil(every);
        let first = self.read.div_ceil(every).max(end.saturating_sub(u64::from(self.capacity)));
        if first >= end || self.tensors.is_empty() {
            return Ok(Vec::new());
        }
        let count = self.tensors.len();
        let records: Vec<TensorRecord> =
            gpu.read(&self.ring, 0, self.capacity as usize * count).await?;
        self.read = attempted;
        let rows = (first..end).map(|watched| {
            let slot = (watched % u64::from(self.capacity)) as usize;
            &records[slot * count..][..count]
        });
        let tensors = rows.flat_map(|row| row.iter().zip(&self.tensors));
        Ok(tensors.map(|(record, tensor)| tensor.with(record)).collect())
    }
}

/// Bytes of what a watched step keeps of so many tensors.
fn row_bytes(tensors: usize) -> u64 {
    (tensors.max(1) * size_of::<TensorRecord>()) as u64
}

/// Watched steps that the ring of so many tensors holds.
fn capacity(tensors: usize, largest_binding: u64) -> u32 {
    let most = u32::try_from(largest_binding / row_bytes(tensors)).unwrap_or(u32::MAX);
    CAPACITY.min(most).max(1)
}

/// Bytes of the ring of so many tensors.
pub(super) fn ring_bytes(tensors: usize, largest_binding: u64) -> u64 {
    u64::from(capacity(tensors, largest_binding)) * row_bytes(tensors)
}

/// The root of a sum of squares that counts in units which its largest magnitude gives.
fn norm(max_bits: u32, sum: f32) -> f64 {
    let exponent = ((max_bits >> 23).max(1) as i32 - 127).min(126);
    f64::from(sum).sqrt() * 2f64.powi(exponent)
}

impl Description {
    fn with(&self, record: &TensorRecord) -> TensorTelemetry {
        let scale = f64::from(record.loss_scale);
        let count = self.elements.max(1) as f64;
        let weight_rms = norm(record.weight_max_bits, record.weight_sum) / count.sqrt();
        let update_rms = norm(record.update_max_bits, record.update_sum) / count.sqrt();
        let is_measured = record.eps_share >= 0.0 && !self.is_in_parts;
        TensorTelemetry {
            step: u64::from(record.step),
            name: self.name.clone(),
            gradient_norm: norm(record.gradient_max_bits, record.gradient_sum) / scale,
            largest_gradient: f64::from(f32::from_bits(record.gradient_max_bits)) / scale,
            nonfinite_count: record.nonfinite_count,
            zero_count: record.zero_count - to_u32(self.padding),
            weight_rms,
            largest_weight: f32::from_bits(record.weight_max_bits).into(),
            update_rms,
            update_to_weight: if weight_rms > 0.0 { update_rms / weight_rms } else { 0.0 },
            frozen_share: f64::from(record.frozen_count) / count,
            clipped_share: f64::from(record.cut_count) / count,
            eps_share: is_measured.then(|| record.eps_share.into()),
        }
    }
}
