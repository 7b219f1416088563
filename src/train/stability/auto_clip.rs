//! Clipping to a percentile of the norms before.

use super::{Judgement, Policy, are_norms, check};
use crate::error::Result;
use crate::kernels::{ClipByPercentile, ClipByPercentileParams, LONGEST_HISTORY};
use crate::record::Recorder;

/// AutoClip (Seetharaman et al. 2020, arXiv 2007.14469): clips gradients to a percentile of the
/// norms seen so far.
///
/// ```text
/// max_norm = percentile of the last `history` norms before this one
/// ```
///
/// The percentile is exact, linear between the nearest ranks as numpy's. At the default of 10, nine
/// steps of ten are clipped: in effect gradients are normalised to the size of the small ones.
///
/// The original keeps every norm of the run, from the first step on, and the norm it judges is
/// among them. Here the last 1,024 count, so the threshold follows a norm that falls, and the
/// device keeps 4 KiB whatever the length of the run; the norm judged is not among them; skipped
/// steps and norms that are not finite are left out, where one NaN spoils every percentile there;
/// and nothing is clipped before `warmup` norms.
///
/// Telemetry shows [`Event::ClippedHarder`](crate::step::Event) with `norm / max_norm`.
///
/// Use it where a good fixed threshold is not known and the norms vary much from batch to batch, as
/// in audio separation, for which it was made. For rare spikes take [`ZClip`](super::ZClip).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoClip {
    /// 0 to 100.
    pub percentile: f32,
    /// Norms that are kept, at most 1,024.
    pub history: u32,
    /// Norms before the first clip.
    pub warmup: u32,
}

impl Default for AutoClip {
    /// Percentile 10, as the paper recommends, of 1,024 norms, once there are 25.
    fn default() -> Self {
        Self { percentile: 10.0, history: LONGEST_HISTORY, warmup: 25 }
    }
}

impl Policy for AutoClip {
    fn name(&self) -> &'static str {
        "AutoClip"
    }

    fn validate(&self) -> Result<()> {
        let (percentile, history, warmup) = (self.percentile, self.history, self.warmup);
        let fits = (0.0..=100.0).contains(&percentile);
        check("AutoClip percentile", percentile, fits, "0 to 100")?;
        let fits = (1..=LONGEST_HISTORY).contains(&history);
        check("AutoClip history", history as f32, fits, "1 to 1,024 norms")?;
        let fits = (1..=history).contains(&warmup);
        check("AutoClip warmup", warmup as f32, fits, "1 norm to the whole history")
    }

    fn memory(&self, _tensor_count: u32) -> Vec<u32> {
        vec![0; 4 + self.history as usize]
    }

    fn accepts_memory(&self, words: &[u32]) -> bool {
        let [count, next, is_pending, ..] = words else { return false };
        *count <= self.history && *next < self.history && *is_pending <= 1 && are_norms(&words[3..])
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let state = recorder.step_state();
        recorder.dispatch(&ClipByPercentile {
            params: ClipByPercentileParams {
                history: self.history,
                sorted: self.history.next_power_of_two(),
                share: self.percentile / 100.0,
                warmup: self.warmup,
            },
            memory: judgement.memory.as_entire_buffer_binding(),
            state,
        });
    }
}
