//! How a run goes: shares of clipped and skipped steps, and spikes.

use std::collections::VecDeque;

use crate::watch::{Record, number, scalar};

/// The share of spikes among the values of a series: OLMo-core's *SpikeScore*.
///
/// A value is a spike if it lies more than `deviations` standard deviations above the mean of the
/// `window` values before it: `x > mean + deviations · std`, with the population's standard
/// deviation. The value itself does not count in them, so a spike cannot hide itself; it does
/// count for those after it. While there are fewer than `window` values, and where they are all
/// the same (std below 1e-10), nothing is a spike. NaN and Inf are passed over: they are no values
/// to compare with, and a step that has them is skipped and counted as that.
#[derive(Clone, Debug)]
pub struct SpikeScore {
    window: usize,
    deviations: f64,
    horizon: usize,
    previous: VecDeque<f64>,
    recent: VecDeque<bool>,
    recent_spikes: usize,
    spikes: u64,
}

/// A value that stood out, and from what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// The value.
    pub value: f64,
    /// Mean of the values before it.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Spike {
    /// Standard deviations above the mean.
    pub fn z(&self) -> f64 {
        (self.value - self.mean) / self.deviation
    }
}

impl Default for SpikeScore {
    /// 6 standard deviations of the last 128 values; the score is over the last 10,000.
    fn default() -> Self {
        Self::new(128, 6.0, 10_000)
    }
}

impl SpikeScore {
    /// Compares with `window` values; the score is over the last `horizon`.
    ///
    /// # Panics
    /// If `window` or `horizon` is 0.
    pub fn new(window: usize, deviations: f64, horizon: usize) -> Self {
        assert!(window > 0 && horizon > 0, "window {window} and horizon {horizon} must be above 0");
        // Windows grow as they fill: one may be as long as any run.
        let (previous, recent) = (VecDeque::new(), VecDeque::new());
        Self { window, deviations, horizon, previous, recent, recent_spikes: 0, spikes: 0 }
    }

    /// Takes the next value of the series.
    pub fn observe(&mut self, value: f64) -> Option<Spike> {
        if !value.is_finite() {
            return None;
        }
        let spike = self.spike(value);
        if self.previous.len() == self.window {
            self.previous.pop_front();
        }
        self.previous.push_back(value);
        if self.recent.len() == self.horizon {
            let oldest = self.recent.pop_front() == Some(true);
            self.recent_spikes -= usize::from(oldest);
        }
        self.recent.push_back(spike.is_some());
        self.recent_spikes += usize::from(spike.is_some());
        self.spikes += u64::from(spike.is_some());
        spike
    }

    /// Both passes each time: running sums would lose a small deviation to rounding.
    fn spike(&self, value: f64) -> Option<Spike> {
        if self.previous.len() < self.window {
            return None;
        }
        let count = self.window as f64;
        let mean = self.previous.iter().sum::<f64>() / count;
        let variance = self.previous.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        let is_spike = deviation >= 1e-10 && value > mean + self.deviations * deviation;
        is_spike.then_some(Spike { value, mean, deviation })
    }

    /// Share of spikes among the last `horizon` finite values; 0 before the first.
    pub fn score(&self) -> f64 {
        self.recent_spikes as f64 / self.recent.len().max(1) as f64
    }

    /// Spikes since the beginning.
    pub const fn spikes(&self) -> u64 {
        self.spikes
    }
}

/// What can be said of a run as a whole, kept up to date record by record.
#[derive(Clone, Debug)]
pub struct RunStatistics {
    window: usize,
    recent_clipped: VecDeque<bool>,
    steps: u64,
    skipped: u64,
    clipped: u64,
    applied: u64,
    loss: SpikeScore,
    norm: SpikeScore,
}

impl Default for RunStatistics {
    /// The clip share is over the last 100 applied steps.
    fn default() -> Self {
        Self::new(100)
    }
}

impl RunStatistics {
    /// The clip share is over the last `window` applied steps.
    ///
    /// # Panics
    /// If `window` is 0.
    pub fn new(window: usize) -> Self {
        assert!(window > 0, "the window must be above 0");
        let (loss, norm) = (SpikeScore::default(), SpikeScore::default());
        let recent_clipped = VecDeque::new();
        Self { window, recent_clipped, steps: 0, skipped: 0, clipped: 0, applied: 0, loss, norm }
    }

    /// Takes the next record.
    pub fn update(&mut self, record: &Record) {
        self.observe(record);
    }

    /// Takes the next record and gives it back with what is known now: the scalars
    /// [`CLIPPED_NORM`](scalar::CLIPPED_NORM), [`CLIP_SHARE`](scalar::CLIP_SHARE),
    /// [`LOSS_SPIKE_SCORE`](scalar::LOSS_SPIKE_SCORE) and
    /// [`NORM_SPIKE_SCORE`](scalar::NORM_SPIKE_SCORE), and an event for each spike.
    #[must_use]
    pub fn annotate(&mut self, mut record: Record) -> Record {
        let spikes = self.observe(&record);
        if let Some(norm) = record.clipped_norm() {
            record.set(scalar::CLIPPED_NORM, norm);
        }
        record.set(scalar::CLIP_SHARE, self.clip_share());
        record.set(scalar::LOSS_SPIKE_SCORE, self.loss.score());
        record.set(scalar::NORM_SPIKE_SCORE, self.norm.score());
        for (what, spike) in ["loss", "gradient norm"].into_iter().zip(spikes) {
            record.events.extend(spike.map(|spike| {
                format!(
                    "{what} spike: {} is {} standard deviations above the mean of {}",
                    number::brief(spike.value),
                    number::brief(spike.z()),
                    number::brief(spike.mean)
                )
            }));
        }
        record
    }

    fn observe(&mut self, record: &Record) -> [Option<Spike>; 2] {
        self.steps += 1;
        if record.applied() {
            self.applied += 1;
            self.clipped += u64::from(record.clipped());
            if self.recent_clipped.len() == self.window {
                self.recent_clipped.pop_front();
            }
            self.recent_clipped.push_back(record.clipped());
        } else {
            self.skipped += 1;
        }
        let observe = |score: &mut SpikeScore, name| score.observe(record.get(name)?);
        [observe(&mut self.loss, scalar::LOSS), observe(&mut self.norm, scalar::GRADIENT_NORM)]
    }

    /// Records seen.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps that changed something.
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// Steps that changed nothing, among the records seen.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Applied steps whose gradients were clipped.
    pub const fn clipped(&self) -> u64 {
        self.clipped
    }

    /// Share of clipped ones among the last applied steps; 0 before the first.
    pub fn clip_share(&self) -> f64 {
        let clipped = self.recent_clipped.iter().filter(|&&clipped| clipped).count();
        clipped as f64 / self.recent_clipped.len().max(1) as f64
    }

    /// Share of clipped ones among all applied steps; 0 before the first.
    pub fn clip_share_of_run(&self) -> f64 {
        self.clipped as f64 / self.applied.max(1) as f64
    }

    /// Spikes of the loss.
    pub const fn loss_spikes(&self) -> &SpikeScore {
        &self.loss
    }

    /// Spikes of the gradient norm before clipping.
    pub const fn norm_spikes(&self) -> &SpikeScore {
        &self.norm
    }
}
