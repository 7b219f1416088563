//! Clipping of each tensor by its own history.

use super::{Judgement, Policy, are_norms, check};
use crate::error::Result;
use crate::kernels::{ClipByHistory, ClipByHistoryParams};
use crate::record::Recorder;

/// AdaGC (Wang et al. 2025, arXiv 2502.11034): clips each tensor to a little above an average of its
/// own norms.
///
/// ```text
/// warm-up:  h = min(1, λ_absolute / |g|)           γ_t = min(γ_t, |h g_t|)
/// then:     h_t = min(1, λ_relative γ_t / |g_t|)   γ_t = β γ_t + (1-β) |h_t g_t|
/// ```
///
/// In the warm-up it is a clip by the global norm. After it a global clip, if any is set, acts on
/// top, and γ does not know of it. Norms of skipped steps, and those that are not finite, change
/// nothing. Unlike in the paper, a gradient of zero is no observation: γ would be 0 from then on,
/// and the tensor would never learn again.
///
/// Telemetry shows [`Event::ClippedHarder`](crate::step::Event) with the largest
/// `|g_t| / (λ_relative γ_t)` and its tensor; with norms that fluctuate by more than 5 % that is
/// most steps.
///
/// Use it for large transformers whose spikes begin in single tensors; it keeps 8 bytes per tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaGc {
    /// Largest norm of a tensor beside its average.
    pub lambda_relative: f32,
    /// Largest norm of all gradients in the warm-up.
    pub lambda_absolute: f32,
    /// Weight of the old average.
    pub beta: f64,
    /// Applied steps of the warm-up.
    pub warmup: u32,
}

impl Default for AdaGc {
    /// 1.05, 1, 0.98, 100 steps: the paper's.
    fn default() -> Self {
        Self { lambda_relative: 1.05, lambda_absolute: 1.0, beta: 0.98, warmup: 100 }
    }
}

impl Policy for AdaGc {
    fn name(&self) -> &'static str {
        "AdaGC"
    }

    fn validate(&self) -> Result<()> {
        let (relative, absolute, beta) =
            (self.lambda_relative, self.lambda_absolute, self.beta as f32);
        check("AdaGC lambda_relative", relative, relative > 0.0, "finite and above 0")?;
        check("AdaGC lambda_absolute", absolute, absolute > 0.0, "finite and above 0")?;
        check("AdaGC beta", beta, (0.0..1.0).contains(&beta), "in [0, 1)")
    }

    fn memory(&self, tensor_count: u32) -> Vec<u32> {
        vec![0; 2 + 2 * tensor_count as usize]
    }

    fn accepts_memory(&self, words: &[u32]) -> bool {
        let [_, is_pending, norms @ ..] = words else { return false };
        *is_pending <= 1 && are_norms(norms)
    }

    fn needs_tensor_norms(&self) -> bool {
        true
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let state = recorder.step_state();
        let norms = judgement.tensor_norms.expect("asked for");
        recorder.dispatch(&ClipByHistory {
            params: ClipByHistoryParams {
                tensor_count: judgement.tensor_count,
                lambda_relative: self.lambda_relative,
                lambda_absolute: self.lambda_absolute,
                beta: self.beta as f32,
                one_minus_beta: (1.0 - self.beta) as f32,
                warmup: self.warmup,
            },
            norms: norms.as_entire_buffer_binding(),
            tensors: judgement.tensors.as_entire_buffer_binding(),
            memory: judgement.memory.as_entire_buffer_binding(),
            state,
        });
    }
}
