//! Clipping of norms that stand out from those before.

use super::{Judgement, Policy, are_norms, check};
use crate::error::Result;
use crate::kernels::{ClipByZScore, ClipByZScoreParams, ZScoreMemory};
use crate::record::Recorder;

/// What ZClip clips a norm to that stands out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ZClipBound {
    /// `factor` times mean + threshold² deviation / z: the further out, the closer to the mean.
    Adaptive {
        /// 0.5 to 0.9 clips harder than the paper's 1.
        factor: f32,
    },
    /// The mean.
    Mean,
}

/// ZClip (Kumar et al. 2025, arXiv 2504.02507): clips gradient norms that stand out from a running
/// mean, and the harder the more they do.
///
/// ```text
/// z = (norm - mean) / (deviation + eps)
/// if z > threshold: max_norm = factor (mean + threshold² deviation / z)
/// mean = α mean + (1-α) clipped norm       variance = α variance + (1-α) (clipped norm - mean)²
/// ```
///
/// Mean and variance start as those of the first `warmup` norms, which only `max_norm` clips. Norms
/// above `max_norm` are clipped to it in any case; where
/// [`Clip::Norm`](crate::train::Clip::Norm) or another policy says less, that holds.
///
/// As the authors' code at its defaults, with these differences: norms of skipped steps, and those
/// that are not finite, change nothing, where a NaN stays in mean and variance there for good; a
/// clipped norm is `max_norm` itself, not a factor of 1e-6 below; the deviation, not the variance,
/// is kept, so norms up to 2^126 do not overflow.
///
/// Telemetry shows [`Event::ClippedHarder`](crate::step::Event) with the z-score.
///
/// Use it for language models in place of a fixed threshold: it follows the norm as it falls, and
/// touches about one step in a hundred. It does not see the loss, and never skips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZClip {
    /// Largest z-score that is not clipped.
    pub z_threshold: f32,
    /// Weight of the old mean and variance.
    pub alpha: f64,
    /// Norms before the first clip.
    pub warmup: u32,
    /// Norms above are clipped in any case.
    pub max_norm: Option<f32>,
    /// What outliers are clipped to.
    pub bound: ZClipBound,
    /// Added to the deviation, in units of the norm.
    pub eps: f32,
    /// Whether mean and variance follow what outliers were clipped to, or leave them out.
    pub learn_from_spikes: bool,
}

impl Default for ZClip {
    /// Threshold 2.5, alpha 0.97, 25 norms of warm-up, largest norm 1, adaptive, eps 1e-6: the
    /// authors' defaults.
    fn default() -> Self {
        Self {
            z_threshold: 2.5,
            alpha: 0.97,
            warmup: 25,
            max_norm: Some(1.0),
            bound: ZClipBound::Adaptive { factor: 1.0 },
            eps: 1e-6,
            learn_from_spikes: true,
        }
    }
}

impl ZClip {
    fn factor(&self) -> f32 {
        match self.bound {
            ZClipBound::Adaptive { factor } => factor,
            ZClipBound::Mean => 1.0,
        }
    }
}

impl Policy for ZClip {
    fn name(&self) -> &'static str {
        "ZClip"
    }

    fn validate(&self) -> Result<()> {
        let (threshold, alpha, factor) = (self.z_threshold, self.alpha as f32, self.factor());
        check("ZClip threshold", threshold, threshold > 0.0, "finite and above 0")?;
        check("ZClip alpha", alpha, (0.0..1.0).contains(&alpha), "in [0, 1)")?;
        check("ZClip warmup", self.warmup as f32, self.warmup > 0, "at least 1 norm")?;
        let max_norm = self.max_norm.unwrap_or(f32::MAX);
        check("ZClip max_norm", max_norm, max_norm > 0.0, "finite and above 0")?;
        check("ZClip factor", factor, factor > 0.0, "finite and above 0")?;
        check("ZClip eps", self.eps, self.eps >= 0.0, "finite and not negative")
    }

    fn memory(&self, _tensor_count: u32) -> Vec<u32> {
        vec![0; size_of::<ZScoreMemory>() / 4]
    }

    fn accepts_memory(&self, words: &[u32]) -> bool {
        let [_, is_pending, norms @ ..] = words else { return false };
        *is_pending <= 1 && are_norms(norms)
    }

    fn judge(&self, recorder: &mut Recorder<'_>, judgement: &Judgement<'_>) {
        let state = recorder.step_state();
        recorder.dispatch(&ClipByZScore {
            params: ClipByZScoreParams {
                threshold: self.z_threshold,
                alpha: self.alpha as f32,
                one_minus_alpha: (1.0 - self.alpha) as f32,
                warmup: self.warmup,
                max_norm: self.max_norm.unwrap_or(f32::MAX),
                clip_factor: self.factor(),
                eps: self.eps,
                to_mean: u32::from(self.bound == ZClipBound::Mean),
                learn_from_spikes: self.learn_from_spikes.into(),
            },
            memory: judgement.memory.as_entire_buffer_binding(),
            state,
        });
    }
}
