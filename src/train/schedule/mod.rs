//! Learning-rate schedules: a table of factors that the device indexes by *applied* steps.
//!
//! A skipped step does not advance a schedule, and the host does not know at once which steps
//! were skipped. So the whole schedule is computed here in f64, uploaded once, and read by the
//! verdict at its own step counter; past its end the last entry holds.

mod table;
#[cfg(test)]
mod tests;

use std::f64::consts::{FRAC_PI_2, PI};

use table::LONGEST_EXACT;
pub(crate) use table::RateTable;

use crate::error::{Error, Result};

/// A schedule of the learning rate over applied steps.
///
/// The learning rate of a step is within an ulp of [`factor`](Self::factor) times the optimizer's,
/// in f32, at every step up to `u32::MAX`, and for schedules of up to 65,536 steps (and the first
/// 8,192 after the warm-up of one without an end) it is that number rounded once. Whatever the
/// length, a schedule takes no more than 1 MB on the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Linear warm-up over `warmup` steps, then the optimizer's learning rate for ever.
    Constant {
        /// Steps of linear warm-up; 0 for none.
        warmup: usize,
    },
    /// Linear warm-up, then linear decay to `final_factor` at step `total`, which holds from there
    /// on.
    Linear {
        /// Steps of linear warm-up; 0 for none, `total` for no decay.
        warmup: usize,
        /// Step at which the decay ends, warm-up included; 0 is the end from the start.
        total: usize,
        /// Factor on the learning rate at the end: finite and not negative. Above 1 it rises.
        final_factor: f64,
    },
    /// Linear warm-up, then half a cosine down to `final_factor` at step `total`, which holds from
    /// there on (Loshchilov and Hutter, SGDR, without restarts).
    Cosine {
        /// Steps of linear warm-up; 0 for none, `total` for no decay.
        warmup: usize,
        /// Step at which the decay ends, warm-up included; 0 is the end from the start.
        total: usize,
        /// Factor on the learning rate at the end: finite and not negative. Above 1 it rises.
        final_factor: f64,
    },
    /// Linear warm-up, the optimizer's learning rate for as long as one likes, then a short decay to
    /// `final_factor` at step `total`, which holds from there on: WSD (Hu et al. 2024;
    /// Hägele et al. 2024, arXiv 2405.18392). How long to train need not be known at the start: a run
    /// goes on from a checkpoint before its decay with a later `total`.
    WarmupStableDecay {
        /// Steps of linear warm-up; 0 for none.
        warmup: usize,
        /// Steps of the decay, the last of `total`; 0 falls to `final_factor` at once. Hägele et al.
        /// take 10 to 20% of a run.
        decay: usize,
        /// Step at which the decay ends, warm-up included: at least `warmup + decay`.
        total: usize,
        /// How it falls.
        shape: DecayShape,
        /// Factor on the learning rate at the end: finite and not negative. Above 1 it rises.
        final_factor: f64,
    },
    /// Linear warm-up, then as 1 / √n for ever, n being the number of the step counted from 1:
    /// min(n / warmup, √(warmup / n)), the schedule of Vaswani et al. 2017 (arXiv 1706.03762, equation
    /// 3) with the optimizer's learning rate at its peak, in the place of one over the root of the
    /// width and of the warm-up.
    InverseSquareRoot {
        /// Steps of linear warm-up; 0 is as 1, the peak in the first step.
        warmup: usize,
    },
    /// Factors of your own, one per applied step; the last one holds on.
    Factors(Vec<f64>),
}

/// How a [`Schedule::WarmupStableDecay`] falls from 1 to its final factor, f, in the share x of the
/// decay that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecayShape {
    /// f + (1 - f) (1 - x).
    Linear,
    /// f + (1 - f) (1 - √x): steep at first and flat at the end, the best of those that Hägele et al.
    /// 2024 compare.
    #[default]
    OneMinusSqrt,
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant { warmup: 0 }
    }
}

impl Schedule {
    /// The factor at applied step `t`, counted from 0. NaN for no [`Factors`](Self::Factors), which
    /// [`build`](super::TrainerBuilder::build) refuses, as it does all that is out of range.
    pub fn factor(&self, t: usize) -> f64 {
        match *self {
            Self::Constant { warmup } if t >= warmup => 1.0,
            Self::Linear { warmup, total, final_factor }
            | Self::Cosine { warmup, total, final_factor }
            | Self::WarmupStableDecay { warmup, total, final_factor, .. }
                if t >= warmup && t >= total =>
            {
                final_factor
            }
            Self::Factors(ref factors) => {
                factors.get(t).or(factors.last()).copied().unwrap_or(f64::NAN)
            }
            _ if t < self.warmup() => self.rise(t as f64),
            Self::WarmupStableDecay { .. } | Self::InverseSquareRoot { .. } => {
                self.middle(t as f64)
            }
            _ => self.decay(t as f64),
        }
    }

    fn warmup(&self) -> usize {
        match *self {
            Self::Constant { warmup }
            | Self::Linear { warmup, .. }
            | Self::Cosine { warmup, .. }
            | Self::WarmupStableDecay { warmup, .. }
            | Self::InverseSquareRoot { warmup } => warmup,
            Self::Factors(_) => 0,
        }
    }

    /// Where the decay begins; for what has none, where the warm-up ends.
    fn decay_start(&self) -> usize {
        match *self {
            Self::WarmupStableDecay { decay, total, .. } => total - decay,
            _ => self.warmup(),
        }
    }

    /// Where the decay ends; 0 where there is none.
    fn decay_end(&self) -> usize {
        match *self {
            Self::Linear { total, .. }
            | Self::Cosine { total, .. }
            | Self::WarmupStableDecay { total, .. } => total,
            // Where steps are counted no further.
            Self::InverseSquareRoot { .. } => usize::MAX,
            _ => 0,
        }
    }

    /// Where the middle ends; 0 where there is none.
    fn middle_end(&self) -> usize {
        match *self {
            Self::WarmupStableDecay { shape: DecayShape::Linear, .. } => self.decay_start(),
            // Steep at its start, and to be told from nothing at its end.
            Self::WarmupStableDecay { decay, .. } => self.decay_start() + decay / 2,
            Self::InverseSquareRoot { .. } => usize::MAX,
            _ => 0,
        }
    }

    /// The line of the warm-up, also beyond it.
    fn rise(&self, t: f64) -> f64 {
        (t + 1.0) / self.warmup() as f64
    }

    /// What is between warm-up and decay, and the decay too.
    fn middle(&self, t: f64) -> f64 {
        match *self {
            Self::InverseSquareRoot { warmup } => (warmup.max(1) as f64 / (t + 1.0)).sqrt(),
            _ if t <= self.decay_start() as f64 => 1.0,
            _ => self.decay(t),
        }
    }

    /// The curve of the decay, also before its start.
    fn decay(&self, t: f64) -> f64 {
        match *self {
            Self::Linear { warmup, total, final_factor }
            | Self::Cosine { warmup, total, final_factor } => {
                let span = (total - warmup) as f64;
                let progress = (t - warmup as f64) / span;
                let is_linear = matches!(self, Self::Linear { .. });
                if total <= LONGEST_EXACT {
                    return if is_linear {
                        1.0 + (final_factor - 1.0) * progress
                    } else {
                        let cosine = (1.0 + (PI * progress).cos()) / 2.0;
                        final_factor + (1.0 - final_factor) * cosine
                    };
                }
                // Near a distant end, one minus the progress would be rounding and little else.
                let left = (total as f64 - t) / span;
                let shape = if is_linear { left } else { (FRAC_PI_2 * left).sin().powi(2) };
                final_factor + (1.0 - final_factor) * shape
            }
            Self::WarmupStableDecay { decay, total, shape, final_factor, .. } => {
                let left = (total as f64 - t) / decay as f64;
                let over = (t - self.decay_start() as f64) / decay as f64;
                let share = match shape {
                    DecayShape::Linear => left,
                    // 1 - √x without the difference, of which little is left near the end.
                    DecayShape::OneMinusSqrt => left / (1.0 + over.max(0.0).sqrt()),
                };
                final_factor + (1.0 - final_factor) * share
            }
            _ => 1.0,
        }
    }

    /// Fails for settings that make no sense, with this learning rate to multiply.
    ///
    /// # Errors
    /// [`Error::Setting`] for no factors, a decay that ends before the warm-up, and a factor that
    /// makes a learning rate negative, NaN or Inf in f32.
    pub(crate) fn validate(&self, learning_rate: f64) -> Result<()> {
        let refused = |setting, value: String, range| Err(Error::Setting { setting, value, range });
        let check = |factor: f64, of: String| {
            let rate = learning_rate * factor;
            if (rate as f32).is_finite() && factor >= 0.0 {
                return Ok(());
            }
            let value = format!("{rate} ({of} is {factor})");
            refused("scheduled learning rate", value, "finite and not negative in f32")
        };
        match *self {
            Self::Constant { .. } | Self::InverseSquareRoot { .. } => {
                check(1.0, "the factor".into())
            }
            Self::WarmupStableDecay { warmup, decay, total, final_factor, .. } => {
                if warmup.checked_add(decay).is_none_or(|least| total < least) {
                    let value =
                        format!("{total}, with a warm-up of {warmup} and a decay of {decay}");
                    return refused("schedule total", value, "at least warm-up and decay");
                }
                check(final_factor, "final_factor".into())?;
                let first = if total == 0 { final_factor } else { 1.0 };
                check(first, "the factor".into())
            }
            Self::Linear { warmup, total, final_factor }
            | Self::Cosine { warmup, total, final_factor } => {
                if total < warmup {
                    let value = format!("{total}, with a warm-up of {warmup}");
                    return refused("schedule total", value, "at least the warm-up");
                }
                check(final_factor, "final_factor".into())?;
                let first = if total == 0 { final_factor } else { 1.0 };
                check(first, "the factor".into())
            }
            Self::Factors(ref factors) => {
                if factors.is_empty() {
                    return refused("schedule factors", "empty".into(), "at least one factor");
                }
                let mut steps = factors.iter().enumerate();
                steps.try_for_each(|(t, &factor)| check(factor, format!("the factor of step {t}")))
            }
        }
    }
}
