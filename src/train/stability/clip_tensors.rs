//! Clipping of each tensor by its own norm.

use super::{Judgement, Policy, check};
use crate::error::Result;
use crate::kernels::{ClipTensors, ClipTensorsParams};
use crate::record::Recorder;

/// Clips the gradient of each tensor to a norm of its own: `g_t *= min(1, max_norm / |g_t|)`.
///
/// As Burn and Keras (`clipnorm`) do it. It changes the direction of the whole gradient, unlike
/// [`Clip::Norm`](crate::train::Clip::Norm), which acts on top of it: the global norm is that before
/// either. Use it where one tensor, an embedding say, has far larger gradients than the others and
/// should not hold all of them down. Telemetry shows
/// [`Event::ClippedHarder`](crate::step::Event) with the largest `|g_t| / max_norm` and its tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipPerTensor {
    /// Largest L2 norm of a tensor.
    pub max_norm: f32,
}

/// Clips the gradient of each tensor to a root mean square: `g_t *= min(1, threshold / rms(g_t))`.
///
/// As `optax.clip_by_block_rms`, on gradients. Unlike [`ClipPerTensor`] it treats tensors of
/// different sizes alike. Telemetry shows [`Event::ClippedHarder`](crate::step::Event) with the
/// largest `rms(g_t) / threshold` and its tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipBlockRms {
    /// Largest root mean square of a tensor.
    pub threshold: f32,
}

/// Records the clip of each tensor to a norm.
fn clip(recorder: &mut Recorder<'_>, judgement: &Judgement<'_>, bounds: &[f32]) {
    let state = recorder.step_state();
    let bounds = recorder.gpu().upload("norm bounds", bounds);
    let norms = judgement.tensor_norms.expect("asked for");
    recorder.dispatch(&ClipTensors {
        params: ClipTensorsParams { tensor_count: judgement.tensor_count },
        bounds: bounds.as_entire_buffer_binding(),
        norms: norms.as_entire_buffer_binding(),
        tensors: judgement.tensors.as_entire_buffer_binding(),
        state,
    });
}

impl Policy for ClipPerTensor {
    fn name(&self) -> &'static str {
        "clip per tensor"
    }

    fn validate(&self) -> Result<()> {
        check("ClipPerTensor max_norm", self.max_norm, self.max_norm > 0.0, "finite and above 0")
    }

    fn needs_tensor_norms(&self) -> bool {
        true
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        clip(recorder, judgement, &vec![self.max_norm; judgement.elements.len()]);
    }
}

impl Policy for ClipBlockRms {
    fn name(&self) -> &'static str {
        "clip block RMS"
    }

    fn validate(&self) -> Result<()> {
        check("ClipBlockRms threshold", self.threshold, self.threshold > 0.0, "finite and above 0")
    }

    fn needs_tensor_norms(&self) -> bool {
        true
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let bound = |&count: &usize| (f64::from(self.threshold) * (count as f64).sqrt()) as f32;
        let bounds: Vec<_> = judgement.elements.iter().map(bound).collect();
        clip(recorder, judgement, &bounds);
    }
}
