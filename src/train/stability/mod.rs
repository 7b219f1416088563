//! Policies: what a run does about gradients and losses that are out of line.
//!
//! A [`Policy`] is a few small dispatches that look at the step after its norm is known and before
//! the verdict, and set fields of [`StepState`](crate::step::StepState) that the verdict obeys: a
//! veto, a lower `max_norm`, a factor on the learning rate; or, per tensor, a clip coefficient and
//! the wish to empty its moments. Policies know nothing of optimizers, and optimizers nothing of
//! them, so any composes with any; several act in the order they were given, each seeing what those
//! before it set.
//!
//! What a policy remembers between steps lies in a buffer of its own. To keep its memory free of
//! skipped steps, a policy holds the sample of a step back and takes it in at the next one, if the
//! verdict of the step was to apply it: so the window it judges by never holds the sample it judges.

use std::fmt::Debug;

use super::optimizers::Segment;
use crate::error::Result;
use crate::plan::Recorder;

/// What a policy can look at and set between norm and verdict.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// (1) f32: the mean loss of the step, not scaled; NaN or Inf where it is.
    pub loss: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    /// Number of tensors.
    pub tensor_count: u32,
    /// What the policy keeps, as [`Policy::memory`] started it.
    pub memory: &'a wgpu::Buffer,
}

/// All that a step commits.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// Weights, by segment.
    pub weights: &'a [wgpu::Buffer],
    /// The optimizer's moments, by segment and moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    /// States of the model.
    pub states: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    /// What the policy keeps.
    pub memory: &'a wgpu::Buffer,
}

/// A rule that reacts to what a step shows, on the device.
pub trait Policy: Debug {
    /// Name for messages and checkpoints; one policy of a name per run.
    fn name(&self) -> &'static str;

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) names the one that is out of range.
    fn validate(&self) -> Result<()>;

    /// The words the policy keeps on the device, as they start, for a model with this many tensors.
    fn memory(&self, tensor_count: u32) -> Vec<u32> {
        let _ = tensor_count;
        Vec::new()
    }

    /// Records what happens to the gradients of a segment before they are scanned. They still hold
    /// the loss scale.
    fn before_scan(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let _ = (recorder, segment);
    }

    /// Records what happens between norm and verdict.
    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let _ = (recorder, judgement);
    }

    /// Records what happens once the step is committed or skipped.
    fn after_update(&self, recorder: &mut Recorder<'_>, committed: &Committed<'_>) {
        let _ = (recorder, committed);
    }
}

/// A policy and its memory on the device.
#[derive(Debug)]
pub(super) struct ActivePolicy {
    pub policy: Box<dyn Policy>,
    pub memory: wgpu::Buffer,
}

impl ActivePolicy {
    /// Where a checkpoint holds the memory.
    pub fn checkpoint_name(&self) -> String {
        format!("evenkeel/policy/{}", self.policy.name())
    }
}
