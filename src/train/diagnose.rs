//! Where did the NaN begin? A step replayed operation by operation, each value scanned as it is
//! made, before its buffer is used for another.

use std::collections::HashMap;
use std::fmt;
use std::iter::repeat_n;

use super::trainer::finish;
use super::{Batch, Model, Trainer};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Pacing};
use crate::graph::{Element, Shape, Source};
use crate::kernel::Precision;
use crate::kernels::{VALUE_SCAN_GROUPS, ValueScan, ValueScanParams};
use crate::plan::{Plan, RecordedNode};
use crate::record::{Slot, to_u32};
use crate::step::ValuePartial;

/// How many of the largest values a printed diagnosis lists.
const LISTED: usize = 5;

/// What a value is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Part of the batch.
    Input,
    /// A parameter, trained or frozen.
    Parameter,
    /// A state, such as running statistics.
    State,
    /// The same in every step.
    Constant,
    /// A result of the forward pass or, where the label says so, of the backward pass.
    Computed,
}

/// The range of one value in a replayed step.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueReport {
    /// Layer, operation and output: `blocks.0.attention.attention`. Operations of the backward pass
    /// carry the label of the operation they differentiate, then `gradient`.
    pub label: String,
    /// What it is.
    pub kind: ValueKind,
    /// Which output of the operation; 0 is the result, others are statistics.
    pub output: usize,
    /// Microbatch it was found in.
    pub microbatch: usize,
    /// Shape and storage precision.
    pub shape: Shape,
    /// Largest magnitude of the finite elements.
    pub largest: f32,
    /// Root of the mean square of the finite elements.
    pub rms: f64,
    /// Elements that are NaN or Inf: overflows.
    pub nonfinite_count: usize,
    /// Elements that are zero.
    pub zero_count: usize,
    /// Elements below the smallest normal number of the storage, but not zero: underflows.
    pub subnormal_count: usize,
    /// Index of the first element that is not finite, in row-major order.
    pub first_nonfinite: Option<usize>,
    /// A checksum of the bits of all elements: two values that are not the same bit by bit have two,
    /// but for one in 2^32. Devices whose bindings hold the whole tensor agree on it.
    pub checksum: u32,
    /// Index in [`Diagnosis::values`] of what the operation read.
    pub inputs: Vec<usize>,
}

impl ValueReport {
    /// Whether every element is finite.
    pub fn is_finite(&self) -> bool {
        self.nonfinite_count == 0
    }

    /// The first element that is not finite, by dimension.
    pub fn first_position(&self) -> Option<Vec<usize>> {
        let mut index = self.first_nonfinite?;
        let mut position = vec![0; self.shape.dims.len()];
        for (at, &dim) in position.iter_mut().zip(&self.shape.dims).rev() {
            *at = index % dim;
            index /= dim;
        }
        Some(position)
    }
}

/// All values of a replayed step in the order they were made: inputs and parameters first.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// The values.
    pub values: Vec<ValueReport>,
    /// Loss scale of the replay.
    pub loss_scale: f32,
}

impl Diagnosis {
    /// The first value that is not finite: where it began.
    pub fn first_fault(&self) -> Option<&ValueReport> {
        self.values.iter().find(|value| !value.is_finite())
    }

    /// The `count` values of largest magnitude that were made up to the first fault, largest first.
    pub fn largest(&self, count: usize) -> Vec<&ValueReport> {
        let end = self.values.iter().position(|value| !value.is_finite());
        let mut values: Vec<_> = self.values[..end.unwrap_or(self.values.len())].iter().collect();
        values.sort_by(|a, b| b.largest.total_cmp(&a.largest));
        values.truncate(count);
        values
    }

    /// What made a value that is not finite, as far as its inputs tell.
    fn cause(&self, fault: &ValueReport) -> String {
        match fault.kind {
            ValueKind::Input => "it came with the batch: check the data".into(),
            ValueKind::Parameter => {
                "the weights hold it: go back to a checkpoint, and see what wrote it".into()
            }
            ValueKind::State | ValueKind::Constant => "the model itself holds it".into(),
            ValueKind::Computed => {
                let precision = fault.shape.precision;
                let limit = match precision {
                    Precision::F16 => "65,504",
                    Precision::F32 | Precision::Bf16 => "3.4e38",
                };
                let scale = match self.loss_scale {
                    scale if scale > 1.0 => format!(" (loss scale {})", f64::from(scale)),
                    _ => String::new(),
                };
                format!(
                    "all it reads is finite, so it overflowed {precision}, which ends at {limit}\
                     {scale}, or has no finite result"
                )
            }
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |value: &ValueReport| {
            let ValueReport { label, output, shape, largest, rms, .. } = value;
            let output = if *output == 0 { String::new() } else { format!(" output {output}") };
            let (dims, precision) = (shape.with(Element::Real), shape.precision);
            format!("{label}{output} {dims} in {precision}: largest {largest:e}, rms {rms:.3e}")
        };
        match self.first_fault() {
            None => writeln!(f, "all {} values of the step are finite", self.values.len())?,
            Some(fault) => {
                let position = fault.first_position().unwrap_or_default();
                writeln!(f, "the first value that is not finite: {}", line(fault))?;
                writeln!(
                    f,
                    "  {} of {} elements, the first at {position:?}, microbatch {}",
                    fault.nonfinite_count,
                    fault.shape.count(),
                    fault.microbatch
                )?;
                writeln!(f, "  {}", self.cause(fault))?;
                for &input in &fault.inputs {
                    writeln!(f, "  it reads {}", line(&self.values[input]))?;
                }
            }
        }
        writeln!(f, "largest values on the way:")?;
        self.largest(LISTED).into_iter().try_for_each(|value| writeln!(f, "  {}", line(value)))
    }
}

/// A value and the sizes of its scans.
struct Scanned {
    report: ValueReport,
    /// For each part of the value its first element and the partials of its scan.
    parts: Vec<(usize, usize)>,
}

impl<M: Model> Trainer<M> {
    /// Replays forward and backward pass on a batch, operation by operation, and measures every
    /// value right after it is made: finds the first that is not finite, and the ranges on the way.
    /// Parameters, moments, states and counters stay as they are; gradients are overwritten. Random
    /// numbers are those of the next step. Slow, and it waits for the device.
    ///
    /// # Errors
    /// What is wrong with the batch, or [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub async fn diagnose(&mut self, batch: &Batch) -> Result<Diagnosis> {
        self.gpu.check()?;
        let index = self.plan_for(batch).await?;
        let inputs = self.inputs_of(index, batch)?;
        finish(&self.gpu, &mut self.pacing, &mut self.in_flight).await?;
        let plan = self.plans.of(index);
        for microbatch in 0..self.microbatches {
            self.write_microbatch(plan, &inputs, microbatch);
            let first = microbatch == 0;
            self.run(if first { plan.prologue() } else { &plan.count_next }).await?;
        }
        let mut values = Vec::new();
        for microbatch in 0..self.microbatches {
            self.write_microbatch(plan, &inputs, microbatch);
            let found = self.replay(plan, microbatch, values.len()).await?;
            values.extend(found);
        }
        Ok(Diagnosis { values, loss_scale: self.state().await?.loss_scale })
    }

    /// Writes the inputs of one microbatch to where the plan reads them.
    fn write_microbatch(&self, plan: &Plan, inputs: &[Vec<u8>], microbatch: usize) {
        for (input, bytes) in plan.inputs.iter().zip(inputs) {
            let size = bytes.len() / self.microbatches;
            self.gpu.write(&input.buffer, 0, &bytes[size * microbatch..][..size]);
        }
        let step = self.step_input(microbatch as u32);
        self.gpu.write(&self.step.input, 0, bytemuck::bytes_of(&step));
    }

    /// Runs dispatches in submits within the budget, to the end.
    async fn run(&self, dispatches: &[Dispatch]) -> Result<()> {
        let mut pacing = Pacing::new(self.pacing.budget(), dispatches.len());
        let submitted = pacing.submit_all(&self.gpu, dispatches).await?;
        pacing.finish(&self.gpu, submitted).await
    }

    /// One microbatch behind the prologue. `base` values were found before.
    async fn replay(
        &self,
        plan: &Plan,
        microbatch: usize,
        base: usize,
    ) -> Result<Vec<ValueReport>> {
        let first = microbatch == 0;
        let list = if first { &plan.first } else { &plan.next };
        let range =
            |node: &RecordedNode| if first { node.first.clone() } else { node.next.clone() };
        let mut dispatches = Vec::new();

        let nodes = &plan.nodes;
        let slots = nodes.iter().flat_map(|node| &node.outputs).filter(|(_, s)| is_real(s));
        let parts = slots.flat_map(|(_, slot)| slot.parts());
        let groups = parts.map(|(_, part)| scan_groups(&part) as usize).sum::<usize>();
        let bytes = (groups * size_of::<ValuePartial>()) as u64;
        let partials = self.gpu.buffer("value partials", bytes);
        let mut index = HashMap::new();
        let mut scanned: Vec<Scanned> = Vec::new();
        let mut used = 0;
        for node in nodes {
            dispatches.extend_from_slice(&list[range(node)]);
            for (value, slot) in node.outputs.iter().filter(|(_, slot)| is_real(slot)) {
                index.insert(*value, base + scanned.len());
                let inputs = node.inputs.iter().filter_map(|input| index.get(input)).copied();
                let report = report(node, value.output, slot, microbatch, inputs.collect());
                let mut parts = Vec::new();
                for (row, part) in slot.parts() {
                    let groups = scan_groups(&part);
                    dispatches.push(scan(&self.gpu, &part, &partials, used, groups));
                    let element = row * (slot.shape.count() / slot.shape.dims[0]);
                    parts.push((element, groups as usize));
                    used += groups;
                }
                scanned.push(Scanned { report, parts });
            }
        }
        self.run(&dispatches).await?;
        let mut found: Vec<ValuePartial> = self.gpu.read(&partials, 0, groups).await?;
        let mut rest = &mut found[..];
        let mut reports = Vec::with_capacity(scanned.len());
        for Scanned { report, parts } in scanned {
            let (mine, others) = rest.split_at_mut(parts.iter().map(|(_, groups)| groups).sum());
            let of_parts = parts.iter().flat_map(|&(first, groups)| repeat_n(first, groups));
            for (partial, first) in mine.iter_mut().zip(of_parts) {
                // No part is as large as what stands for none.
                if partial.first_nonfinite != u32::MAX {
                    partial.first_nonfinite += to_u32(first);
                }
            }
            reports.push(report.with_range(mine));
            rest = others;
        }
        Ok(reports)
    }
}

fn is_real(slot: &Slot) -> bool {
    matches!(slot.shape.element, Element::Real | Element::F32)
}

/// Workgroups for a value: each strides over what 64 of them do not cover at once.
fn scan_groups(slot: &Slot) -> u32 {
    to_u32(slot.shape.quads().div_ceil(64)).min(VALUE_SCAN_GROUPS)
}

fn scan(
    gpu: &Gpu,
    slot: &Slot,
    partials: &wgpu::Buffer,
    first_partial: u32,
    groups: u32,
) -> Dispatch {
    let shape = &slot.shape;
    let kernel = ValueScan {
        params: ValueScanParams {
            quads: to_u32(shape.quads()),
            row_quads: to_u32(shape.row_quads()),
            cols: to_u32(shape.cols()),
            groups,
            first_partial,
            smallest_normal_bits: shape.precision.smallest_normal().to_bits(),
        },
        x: slot.binding(),
        partials: partials.as_entire_buffer_binding(),
    };
    gpu.prepare_as(&kernel, shape.precision)
}

fn report(
    node: &RecordedNode,
    output: usize,
    slot: &Slot,
    microbatch: usize,
    inputs: Vec<usize>,
) -> ValueReport {
    let kind = match node.source {
        Source::Input(_) => ValueKind::Input,
        Source::Parameter(_) => ValueKind::Parameter,
        Source::State(_) => ValueKind::State,
        Source::Constant(_) => ValueKind::Constant,
        Source::Op(_) => ValueKind::Computed,
    };
    ValueReport {
        label: node.label.clone(),
        kind,
        output,
        microbatch,
        shape: slot.shape.clone(),
        largest: 0.0,
        rms: 0.0,
        nonfinite_count: 0,
        zero_count: 0,
        subnormal_count: 0,
        first_nonfinite: None,
        checksum: 0,
        inputs,
    }
}

impl ValueReport {
    /// The same with what its scan found.
    fn with_range(mut self, partials: &[ValuePartial]) -> Self {
        let count =
            |field: fn(&ValuePartial) -> u32| partials.iter().map(|p| field(p) as usize).sum();
        let squares: f64 = partials.iter().map(sum_of_squares).sum();
        self.largest = partials.iter().map(|p| f32::from_bits(p.max_bits)).fold(0.0, f32::max);
        self.nonfinite_count = count(|p| p.nonfinite_count);
        self.zero_count = count(|p| p.zero_count);
        self.subnormal_count = count(|p| p.subnormal_count);
        self.checksum = partials.iter().fold(0, |sum, p| sum.wrapping_add(p.checksum));
        let first = partials.iter().map(|p| p.first_nonfinite).min();
        self.first_nonfinite = first.filter(|&first| first != u32::MAX).map(|first| first as usize);
        let finite = self.shape.count() - self.nonfinite_count;
        self.rms = (squares / finite.max(1) as f64).sqrt();
        self
    }
}

/// The unit of `scaled_sum` is the square of a power of two that the largest magnitude gives.
fn sum_of_squares(partial: &ValuePartial) -> f64 {
    let exponent = ((partial.max_bits >> 23).max(1) as i32 - 127).min(126);
    f64::from(partial.scaled_sum) * 4f64.powi(exponent)
}
