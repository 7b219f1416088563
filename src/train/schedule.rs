//! Learning-rate schedules: a table of factors that the device indexes by *applied* steps.
//!
//! A skipped step does not advance a schedule, and the host does not know at once which steps
//! were skipped. So the whole schedule is computed here in f64, uploaded once, and read by the
//! verdict at its own step counter; past its end the last entry holds.

use std::f64::consts::PI;

use crate::error::{Error, Result};

/// A schedule of the learning rate over applied steps.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Linear warm-up over `warmup` steps, then the optimizer's learning rate for ever.
    Constant {
        /// Steps of linear warm-up; 0 for none.
        warmup: usize,
    },
    /// Linear warm-up, then linear decay to `final_factor` at step `total`.
    Linear {
        /// Steps of linear warm-up; 0 for none.
        warmup: usize,
        /// Step at which the decay ends, warm-up included.
        total: usize,
        /// Factor on the learning rate at the end.
        final_factor: f64,
    },
    /// Linear warm-up, then half a cosine down to `final_factor` at step `total`
    /// (Loshchilov and Hutter, SGDR, without restarts).
    Cosine {
        /// Steps of linear warm-up; 0 for none.
        warmup: usize,
        /// Step at which the decay ends, warm-up included.
        total: usize,
        /// Factor on the learning rate at the end.
        final_factor: f64,
    },
    /// Factors of your own, one per applied step; the last one holds on.
    Factors(Vec<f64>),
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant { warmup: 0 }
    }
}

impl Schedule {
    /// The factor at applied step `t`, counted from 0.
    pub fn factor(&self, t: usize) -> f64 {
        let warm = |warmup: usize| ((t + 1) as f64 / warmup as f64).min(1.0);
        let progress = |warmup: usize, total: usize| {
            let span = total.saturating_sub(warmup).max(1);
            (t.saturating_sub(warmup) as f64 / span as f64).min(1.0)
        };
        match *self {
            Self::Constant { warmup } if t < warmup => warm(warmup),
            Self::Constant { .. } => 1.0,
            Self::Linear { warmup, .. } | Self::Cosine { warmup, .. } if t < warmup => warm(warmup),
            Self::Linear { warmup, total, final_factor } => {
                1.0 + (final_factor - 1.0) * progress(warmup, total)
            }
            Self::Cosine { warmup, total, final_factor } => {
                let cosine = (1.0 + (PI * progress(warmup, total)).cos()) / 2.0;
                final_factor + (1.0 - final_factor) * cosine
            }
            Self::Factors(ref factors) => factors[t.min(factors.len() - 1)],
        }
    }

    /// Learning rates for steps 0, 1, ...; the last one holds for all later steps.
    ///
    /// # Errors
    /// [`Error::Setting`] for an empty table, a decay that ends before the warm-up, or a factor
    /// that is negative or not finite.
    pub fn table(&self, learning_rate: f64) -> Result<Vec<f32>> {
        let length = match self {
            Self::Constant { warmup } => warmup + 1,
            Self::Linear { warmup, total, .. } | Self::Cosine { warmup, total, .. } => {
                if total < warmup {
                    return Err(Error::Setting {
                        setting: "schedule total",
                        value: total.to_string(),
                        range: "at least the warm-up",
                    });
                }
                total + 1
            }
            Self::Factors(factors) => factors.len(),
        };
        if length == 0 {
            return Err(Error::Setting {
                setting: "schedule factors",
                value: "empty".into(),
                range: "at least one factor",
            });
        }
        let rates = (0..length).map(|t| (learning_rate * self.factor(t)) as f32);
        let rates: Vec<_> = rates.collect();
        match rates.iter().find(|rate| !rate.is_finite() || **rate < 0.0) {
            None => Ok(rates),
            Some(rate) => Err(Error::Setting {
                setting: "scheduled learning rate",
                value: rate.to_string(),
                range: "finite and not negative in f32",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_decay() {
        let cosine = Schedule::Cosine { warmup: 4, total: 14, final_factor: 0.1 };
        let expect = [(0, 0.25), (3, 1.0), (4, 1.0), (9, 0.55), (14, 0.1), (999, 0.1)];
        for (t, factor) in expect {
            assert!((cosine.factor(t) - factor).abs() < 1e-12, "{t}: {}", cosine.factor(t));
        }
        let linear = Schedule::Linear { warmup: 0, total: 10, final_factor: 0.0 };
        for (t, factor) in [(0, 1.0), (5, 0.5), (10, 0.0), (11, 0.0)] {
            assert!((linear.factor(t) - factor).abs() < 1e-12, "{t}: {}", linear.factor(t));
        }
        assert_eq!(cosine.table(2.0).unwrap().len(), 15);
        assert_eq!(Schedule::default().table(0.5).unwrap(), [0.5]);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        let backwards = Schedule::Linear { warmup: 5, total: 4, final_factor: 0.0 };
        assert!(backwards.table(1.0).unwrap_err().to_string().contains("at least the warm-up"));
        assert!(Schedule::Factors(vec![]).table(1.0).is_err());
        assert!(Schedule::Factors(vec![1.0, f64::NAN]).table(1.0).is_err());
    }
}
