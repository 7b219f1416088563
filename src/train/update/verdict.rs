//! Clip coefficient, apply or skip, the next loss scale: the step is closed.

use super::{Pass, Update};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::{Verdict, VerdictParams};
use crate::plan::parameters;
use crate::record::{Recorder, StepBuffers, to_u32};
use crate::train::schedule::RateTable;
use crate::train::{LossScale, Refill};

/// The verdict.
pub(super) struct Close<'a> {
    pub params: VerdictParams,
    /// Learning rates over applied steps.
    pub rates: &'a wgpu::Buffer,
    pub step: &'a StepBuffers,
    pub loss: &'a wgpu::Buffer,
    /// States that are to be committed.
    pub staged: &'a wgpu::Buffer,
    /// (tensors) [`TensorState`](crate::step::TensorState)
    pub tensors: &'a wgpu::Buffer,
}

impl Pass for Close<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        recorder.dispatch(&Verdict {
            params: self.params,
            input: self.step.input.as_entire_buffer_binding(),
            learning_rates: self.rates.as_entire_buffer_binding(),
            loss: self.loss.as_entire_buffer_binding(),
            staged: self.staged.as_entire_buffer_binding(),
            tensors: self.tensors.as_entire_buffer_binding(),
            state: self.step.state.as_entire_buffer_binding(),
        });
        Ok(())
    }
}

/// The settings that the verdict follows.
pub(super) fn params(update: &Update<'_>, schedule: &RateTable) -> VerdictParams {
    let tensor_count = to_u32(update.parameters.trained().len());
    let has_states = !update.parameters.states().is_empty();
    let staged_quads = update.sinks.staged.size() as usize / 16;
    let fixed = VerdictParams {
        clip_value: update.clip.max_value(),
        rising_steps: schedule.rising_steps,
        middle_end: schedule.middle_end,
        middle_start: schedule.middle_start,
        middle_first: schedule.middle_first,
        decay_end: schedule.decay_end,
        decay_first: schedule.decay_first,
        knot_bits: schedule.knot_bits,
        give_up_after: update.give_up_after,
        staged_quads: if has_states { to_u32(staged_quads) } else { 0 },
        ..VerdictParams::new(tensor_count, update.optimizer.betas())
    };
    match update.loss_scale {
        LossScale::Static(_) => fixed,
        LossScale::Dynamic(scale) => VerdictParams {
            growth_factor: scale.growth,
            backoff_factor: scale.backoff,
            growth_interval: scale.interval,
            min_scale: scale.min,
            max_scale: scale.max,
            hysteresis: scale.hysteresis,
            refill_every_step: u32::from(scale.refill == Refill::EveryCleanStep),
            give_up_at_min_scale: u32::from(scale.give_up_at_min),
            ..fixed
        },
    }
}

/// The learning rates on the device. Only a list of the user's own has no bound.
pub(super) async fn upload_rates(gpu: &Gpu, schedule: &RateTable) -> Result<wgpu::Buffer> {
    let (needed, available) = (4 * schedule.rates.len() as u64, gpu.largest_binding());
    if needed > available {
        return Err(Error::Limit {
            what: format!("a schedule of {} factors", schedule.rates.len()),
            limit: "maxStorageBufferBindingSize (or maxBufferSize)",
            needed,
            available,
            advice: "give fewer factors, or a Schedule that is computed".into(),
        });
    }
    let upload = || gpu.upload("learning rates", &schedule.rates);
    parameters::allocate(gpu, "the schedule", needed, upload).await
}
