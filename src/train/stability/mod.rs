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

mod ada_gc;
mod adaptive_gradient_clip;
mod auto_clip;
mod clip_tensors;
mod snapshot_ring;
mod spike_guard;
mod z_clip;

use std::fmt::Debug;
use std::rc::Rc;

pub use ada_gc::AdaGc;
pub use adaptive_gradient_clip::AdaptiveGradientClip;
pub use auto_clip::AutoClip;
pub use clip_tensors::{ClipBlockRms, ClipPerTensor};
pub use snapshot_ring::SnapshotRing;
pub use spike_guard::{Reaction, SpikeGuard};
pub use z_clip::{ZClip, ZClipBound};

use super::optimizers::Segment;
use crate::error::{Error, Result};
use crate::record::Recorder;

/// What a policy can look at and set between norm and verdict.
#[derive(Clone, Copy, Debug)]
pub struct Judgement<'a> {
    /// (1) f32: the loss of the step, not scaled; NaN or Inf where that of a microbatch is. Then
    /// the verdict skips the step whatever policies say.
    pub loss: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    /// Number of trained tensors; policies see nothing of frozen ones.
    pub tensor_count: u32,
    /// Elements of each tensor, without padding.
    pub elements: &'a [usize],
    /// (tensors) [`TensorNorm`](crate::kernels::TensorNorm) of the gradients, loss scale included,
    /// if any policy [needs them](Policy::needs_tensor_norms).
    pub tensor_norms: Option<&'a wgpu::Buffer>,
    /// What the policy keeps, as [`Policy::memory`] started it.
    pub memory: &'a wgpu::Buffer,
}

/// All that a step commits.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// Weights of trained tensors, by segment.
    pub weights: &'a [wgpu::Buffer],
    /// The optimizer's moments, by segment and moment.
    pub moments: &'a [Vec<wgpu::Buffer>],
    /// The averages of the weights, by segment; none where none are kept.
    pub averages: &'a [wgpu::Buffer],
    /// States of the model.
    pub states: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
    /// What the policy keeps.
    pub memory: &'a wgpu::Buffer,
}

impl<'a> Committed<'a> {
    /// Every buffer that a step commits to, but for the policy's own.
    pub fn buffers(&self) -> impl Iterator<Item = &'a wgpu::Buffer> + use<'a> {
        // A model without states has an empty buffer of them, of the smallest size there is.
        let states = (self.states.size() > 16).then_some(self.states);
        let flat = self.weights.iter().chain(self.moments.iter().flatten()).chain(self.averages);
        flat.chain(states).chain([self.tensors])
    }
}

/// A rule that reacts to what a step shows, on the device.
pub trait Policy: Debug {
    /// Name for messages and checkpoints; one policy of a name per run.
    fn name(&self) -> &'static str;

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Setting`] names the one that is out of range.
    fn validate(&self) -> Result<()>;

    /// The words the policy keeps on the device, as they start, for a model with this many trained
    /// tensors.
    fn memory(&self, tensor_count: u32) -> Vec<u32> {
        let _ = tensor_count;
        Vec::new()
    }

    /// Whether these words, as many as [`memory`](Self::memory) has, padded to a multiple of four,
    /// can be what the policy remembers: a checkpoint with others is refused.
    fn accepts_memory(&self, words: &[u32]) -> bool {
        let _ = words;
        true
    }

    /// Whether [`Judgement::tensor_norms`] has to be there.
    fn needs_tensor_norms(&self) -> bool {
        false
    }

    /// Whether the policy may veto a step for [`Reason::RolledBack`](crate::step::Reason): then
    /// another one has to be there that can roll back.
    fn asks_for_rollback(&self) -> bool {
        false
    }

    /// Whether the policy goes back to a snapshot when another asks for it.
    fn can_roll_back(&self) -> bool {
        false
    }

    /// Bytes on the device beside the memory, for a run whose steps commit this many.
    fn device_bytes(&self, committed: u64) -> u64 {
        let _ = committed;
        0
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
    pub policy: Rc<dyn Policy>,
    pub memory: wgpu::Buffer,
}

impl ActivePolicy {
    /// The words of the memory before the first step.
    pub fn fresh_memory(&self, tensor_count: u32) -> Vec<u32> {
        let mut memory = self.policy.memory(tensor_count);
        memory.resize(self.memory.size() as usize / 4, 0);
        memory
    }

    /// Where a checkpoint holds the memory.
    pub fn checkpoint_name(&self) -> String {
        format!("evenkeel/policy/{}", self.policy.name())
    }
}

/// Whether all of these are bits of numbers that are finite and not negative.
fn are_norms(words: &[u32]) -> bool {
    words.iter().all(|&bits| bits < f32::INFINITY.to_bits())
}

/// Fails unless the value is finite and fits.
fn check(setting: &'static str, value: f32, fits: bool, range: &'static str) -> Result<()> {
    if value.is_finite() && fits {
        return Ok(());
    }
    Err(Error::Setting { setting, value: value.to_string(), range })
}
