//! Spikes of loss and norm, and what is done about them.

use super::{Judgement, Policy, are_norms, check};
use crate::error::Result;
use crate::kernels::{
    GuardSpikes, GuardSpikesParams, SPIKE_CLIP_HARDER, SPIKE_CUT_LEARNING_RATE,
    SPIKE_RESET_MOMENTS, SPIKE_ROLL_BACK, SPIKE_SKIP, SpikeMemory, SpikeReaction,
};
use crate::record::{Recorder, to_u32};

/// What is done about a spike. All but [`ClipHarder`](Self::ClipHarder) skip the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reaction {
    /// The step changes nothing.
    Skip,
    /// The step is applied, its gradients clipped to `factor` times the mean norm of the window.
    /// Skipped while the window of norms is not half full, and where the loss is not finite.
    ClipHarder {
        /// Factor on the mean norm.
        factor: f32,
    },
    /// The next `steps` applied steps run at `factor` times the scheduled learning rate. A second
    /// cut replaces the first.
    CutLearningRate {
        /// Factor on the learning rate, at most 1.
        factor: f32,
        /// Applied steps.
        steps: u32,
    },
    /// The next applied step starts with empty moments for one tensor: the one whose norm is
    /// largest beside its own running mean.
    ResetMoments,
    /// The run goes back to a snapshot of [`SnapshotRing`](super::SnapshotRing).
    RollBack,
}

/// Finds steps whose loss or gradient norm is far above those before, and reacts: mildly at first,
/// harder if spikes keep coming.
///
/// ```text
/// z = (x - mean) / deviation        a spike where z > threshold, or where the loss is NaN or Inf
/// ```
///
/// Mean and deviation (n - 1) are those of the last `window` samples, not of the step judged, and
/// count once half of them are there. Gradients that are not finite are no spike: such a step is
/// skipped anyway, and tells nothing. A loss that is not finite is one, and brings its reaction; the
/// step is skipped anyway, for [`NonFiniteLoss`](crate::step::Reason). A deviation below 2^-20 of the largest sample is taken for
/// that much, so rounding makes no spikes.
///
/// A spike is not taken into the window. A lasting change of level would then be skipped for ever,
/// so the samples of spikes are taken in, applied or not, from the one after `patience` in a row
/// on: a few of them widen the deviation until they pass. A loss that stays NaN is never taken in;
/// there [`give_up_after`](crate::train::TrainerBuilder::give_up_after) ends the run.
///
/// Spikes that follow each other by fewer than `within` steps make an episode. Its first `repeats`
/// spikes bring the first reaction, the next ones the second, and so on; the last reaction serves
/// all the rest. All of it depends on the samples alone: two equal runs react alike.
///
/// Telemetry shows each spike: [`Event::LossSpike`](crate::step::Event) or `NormSpike`, the larger
/// z-score as `event_value` (the largest f32 for a loss that is not finite), with
/// [`Reaction::ResetMoments`] the worst tensor as `event_tensor`, and what was done as further
/// events and the reason.
///
/// Thresholds and window are those of OLMo's SkipStep (Groeneveld et al. 2024). Unlike there, a NaN
/// does not enter the window, where every comparison would fail until it left; samples of skipped
/// steps stay out; and a step is skipped by a verdict, not by multiplying with 0, which keeps NaN.
///
/// Use it for runs long enough that a spike costs more than the batch it came with: language models,
/// large learning rates. [`ZClip`](super::ZClip) is gentler and reacts to more.
#[derive(Clone, Debug, PartialEq)]
pub struct SpikeGuard {
    /// Samples that mean and deviation are taken of.
    pub window: u32,
    /// Largest z-score that is no spike.
    pub threshold: f32,
    /// Whether the loss is watched.
    pub watch_loss: bool,
    /// Whether the gradient norm is watched.
    pub watch_norm: bool,
    /// What is done, in order of severity.
    pub reactions: Vec<Reaction>,
    /// Spikes of an episode that each reaction serves.
    pub repeats: u32,
    /// Steps without a spike that end an episode.
    pub within: u32,
    /// Spikes in a row after which samples are taken in all the same.
    pub patience: u32,
}

impl Default for SpikeGuard {
    /// Window 128, threshold 6, loss and norm; skip, one reaction, patience 8.
    fn default() -> Self {
        Self {
            window: 128,
            threshold: 6.0,
            watch_loss: true,
            watch_norm: true,
            reactions: vec![Reaction::Skip],
            repeats: 2,
            within: 100,
            patience: 8,
        }
    }
}

impl SpikeGuard {
    /// Skips, then cuts the learning rate to half for 100 steps, then rolls back: for use with a
    /// [`SnapshotRing`](super::SnapshotRing).
    pub fn with_rollback() -> Self {
        let cut = Reaction::CutLearningRate { factor: 0.5, steps: 100 };
        Self { reactions: vec![Reaction::Skip, cut, Reaction::RollBack], ..Self::default() }
    }

    fn has(&self, reaction: Reaction) -> bool {
        self.reactions.contains(&reaction)
    }

    fn validate_reaction(reaction: &Reaction) -> Result<()> {
        match *reaction {
            Reaction::ClipHarder { factor } => {
                check("ClipHarder factor", factor, factor > 0.0, "finite and above 0")
            }
            Reaction::CutLearningRate { factor, steps } => {
                let fits = (0.0..=1.0).contains(&factor);
                check("CutLearningRate factor", factor, fits, "in [0, 1]")?;
                check("CutLearningRate steps", steps as f32, steps > 0, "at least 1")
            }
            Reaction::Skip | Reaction::ResetMoments | Reaction::RollBack => Ok(()),
        }
    }
}

impl From<&Reaction> for SpikeReaction {
    fn from(reaction: &Reaction) -> Self {
        let (kind, factor, steps) = match *reaction {
            Reaction::Skip => (SPIKE_SKIP, 1.0, 0),
            Reaction::ClipHarder { factor } => (SPIKE_CLIP_HARDER, factor, 0),
            Reaction::CutLearningRate { factor, steps } => (SPIKE_CUT_LEARNING_RATE, factor, steps),
            Reaction::ResetMoments => (SPIKE_RESET_MOMENTS, 1.0, 0),
            Reaction::RollBack => (SPIKE_ROLL_BACK, 1.0, 0),
        };
        Self { kind, factor, steps }
    }
}

impl Policy for SpikeGuard {
    fn name(&self) -> &'static str {
        "spike guard"
    }

    fn validate(&self) -> Result<()> {
        let window = self.window;
        check("spike window", window as f32, (2..=65_536).contains(&window), "2 to 65,536 steps")?;
        check("spike threshold", self.threshold, self.threshold > 0.0, "finite and above 0")?;
        let reactions = self.reactions.len();
        check("spike reactions", reactions as f32, (1..=64).contains(&reactions), "1 to 64")?;
        let repeats = self.repeats;
        check("spike repeats", repeats as f32, (1..=65_536).contains(&repeats), "1 to 65,536")?;
        check("spike within", self.within as f32, self.within > 0, "at least 1 step")?;
        self.reactions.iter().try_for_each(Self::validate_reaction)
    }

    fn memory(&self, tensor_count: u32) -> Vec<u32> {
        vec![0; SpikeMemory::words(self.window, tensor_count)]
    }

    fn accepts_memory(&self, words: &[u32]) -> bool {
        let header = size_of::<SpikeMemory>() / 4;
        let Some((header, samples)) = words.split_at_checked(header) else { return false };
        let memory: SpikeMemory = bytemuck::pod_read_unaligned(bytemuck::cast_slice(header));
        let (losses, others) = samples.split_at(self.window as usize);
        let losses: &[f32] = bytemuck::cast_slice(losses);
        let counts = [memory.loss_count, memory.norm_count];
        let places = [memory.loss_next, memory.norm_next];
        counts.into_iter().all(|count| count <= self.window)
            && places.into_iter().all(|place| place < self.window)
            && memory.pending < 8
            && memory.pending_loss.is_finite()
            && (0.0..=1.0).contains(&memory.cut_factor)
            && are_norms(&[memory.pending_norm.to_bits()])
            && losses.iter().all(|loss| loss.is_finite())
            && are_norms(others)
    }

    fn needs_tensor_norms(&self) -> bool {
        self.has(Reaction::ResetMoments)
    }

    fn asks_for_rollback(&self) -> bool {
        self.has(Reaction::RollBack)
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let state = recorder.step_state();
        let reactions: Vec<_> = self.reactions.iter().map(SpikeReaction::from).collect();
        let reactions = recorder.gpu().upload("spike reactions", &reactions);
        let watches_tensors = self.needs_tensor_norms();
        let unused = recorder.unused();
        let norms = judgement.tensor_norms.filter(|_| watches_tensors).unwrap_or(&unused);
        recorder.dispatch(&GuardSpikes {
            params: GuardSpikesParams {
                tensor_count: judgement.tensor_count,
                window: self.window,
                threshold: self.threshold,
                watch_loss: self.watch_loss.into(),
                watch_norm: self.watch_norm.into(),
                watch_tensors: watches_tensors.into(),
                reaction_count: to_u32(self.reactions.len()),
                repeats: self.repeats,
                within: self.within,
                patience: self.patience,
            },
            reactions: reactions.as_entire_buffer_binding(),
            loss: judgement.loss.as_entire_buffer_binding(),
            norms: norms.as_entire_buffer_binding(),
            tensors: judgement.tensors.as_entire_buffer_binding(),
            memory: judgement.memory.as_entire_buffer_binding(),
            state,
        });
    }
}
