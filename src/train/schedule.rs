//! Learning-rate schedules: a table of factors that the device indexes by *applied* steps.
//!
//! A skipped step does not advance a schedule, and the host does not know at once which steps
//! were skipped. So the whole schedule is computed here in f64, uploaded once, and read by the
//! verdict at its own step counter; past its end the last entry holds.
//!
//! A schedule of up to 65,536 steps has an entry for each. A longer one has knots with straight
//! lines between them, each part with a grid of its own: warm-up by the steps since the start, decay
//! by those until the end, and between them a middle, by the steps since its own start. Near where it
//! is counted from, every step is a knot, further out there are 4,096 to each doubling. What the parts
//! look like near zero, x, x², √x and 1/√(1 + x), is then within 2^-26 of itself between two knots,
//! so a learning rate is within an ulp of f64, whatever the length.
//!
//! The middle holds what has a bend where no grid may cross it: what is constant before a late decay,
//! and the first half of a decay that begins steeply, as 1 - √x does.

use std::f64::consts::{FRAC_PI_2, PI};

use crate::error::{Error, Result};

/// A schedule of the learning rate over applied steps.
///
/// The learning rate of a step is within an ulp of [`factor`](Self::factor) times the optimizer's,
/// in f32, at every step up to `u32::MAX`, and for schedules of up to 65,536 steps (and the first
/// 8,192 after the warm-up of one without an end) it is that number rounded once. Whatever the length, a schedule takes no more than 1 MB on the device.
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

/// The longest schedule with an entry for every step.
const LONGEST_EXACT: usize = 1 << 16;

/// Knots per doubling of a longer one: 2 to this.
const KNOT_BITS: u32 = 12;

/// Learning rates for the device; `shaders/shared/schedule.wgsl` looks them up.
#[derive(Debug)]
pub(crate) struct RateTable {
    /// Knots of the rise, then those of the middle, then those of the decay from its end backwards.
    pub rates: Vec<f32>,
    /// Applied steps of the first part.
    pub rising_steps: u32,
    /// Applied steps after which the middle ends; 0 for none.
    pub middle_end: u32,
    /// Where the middle is counted from; before, it is constant.
    pub middle_start: u32,
    /// Entry of that place.
    pub middle_first: u32,
    /// Where the decay ends.
    pub decay_end: u32,
    /// Entry of the end.
    pub decay_first: u32,
    /// Two to this many entries of a part are steps, and as many again those of each doubling.
    pub knot_bits: u32,
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

    /// Learning rates of all steps.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub(crate) fn table(&self, learning_rate: f64) -> Result<RateTable> {
        self.validate(learning_rate)?;
        let rate = |factor: f64| (learning_rate * factor) as f32;
        if let Self::Factors(factors) = self {
            let rates: Vec<_> = factors.iter().map(|&factor| rate(factor)).collect();
            let last = u32::try_from(rates.len() - 1).unwrap_or(u32::MAX);
            return Ok(RateTable {
                rates,
                rising_steps: last,
                middle_end: 0,
                middle_start: 0,
                middle_first: 0,
                decay_end: 0,
                decay_first: last,
                knot_bits: 31,
            });
        }
        let (warmup, start, end) = (self.warmup(), self.decay_start(), self.decay_end());
        let is_exact = match self {
            Self::InverseSquareRoot { .. } => false,
            Self::WarmupStableDecay { decay, .. } => warmup.max(*decay) <= LONGEST_EXACT,
            _ => end.max(warmup) <= LONGEST_EXACT,
        };
        let knot_bits = if is_exact { LONGEST_EXACT.ilog2() } else { KNOT_BITS };
        let [rising_steps, middle_start, middle_end, end] =
            [warmup, start, self.middle_end(), end].map(clamped);
        let steps = u64::from(rising_steps);
        let rise = knots(knot_bits, rising_steps.checked_sub(1))
            .map(|t| if t < steps { self.factor(t as usize) } else { self.rise(t as f64) });
        let mut rates: Vec<_> = rise.map(rate).collect();

        let middle_first = rates.len() as u32;
        let has_middle = middle_end > rising_steps;
        let last = has_middle.then(|| (middle_end - 1).saturating_sub(middle_start));
        let middle = knots(knot_bits, last)
            .map(|since| self.middle((u64::from(middle_start) + since) as f64));
        rates.extend(middle.map(rate));

        let decay_first = rates.len() as u32;
        let first = u64::from(middle_start);
        let span = end.saturating_sub(rising_steps.max(middle_end));
        let decay = knots(knot_bits, Some(span)).map(|left| {
            let t = u64::from(end.max(rising_steps)).checked_sub(left);
            match t.filter(|&t| t >= first) {
                Some(t) => self.factor(t as usize),
                None => self.decay(f64::from(end) - left as f64),
            }
        });
        rates.extend(decay.map(rate));
        Ok(RateTable {
            rates,
            rising_steps,
            middle_end,
            middle_start,
            middle_first,
            decay_end: end,
            decay_first,
            knot_bits,
        })
    }
}

/// As far as a step can be told.
fn clamped(steps: usize) -> u32 {
    u32::try_from(steps).unwrap_or(u32::MAX)
}

/// Where the knots are that serve 0 to `last`: the one past it too, where there are lines between.
fn knots(bits: u32, last: Option<u32>) -> impl Iterator<Item = u64> {
    let count = last.map_or(0, |last| {
        let shift = (last | 1).ilog2().saturating_sub(bits);
        (shift << bits) + (last >> shift) + 1 + u32::from(shift > 0)
    });
    (0..count).map(move |index| {
        let shift = (index >> bits).saturating_sub(1);
        u64::from(index - (shift << bits)) << shift
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `shaders/shared/schedule.wgsl`.
    fn look_up(table: &RateTable, t: u32) -> f32 {
        let (x, first) = if t < table.rising_steps {
            (t, 0)
        } else if t < table.middle_end {
            (t.max(table.middle_start) - table.middle_start, table.middle_first)
        } else {
            (table.decay_end - t.min(table.decay_end), table.decay_first)
        };
        let shift = (x | 1).ilog2().saturating_sub(table.knot_bits);
        let index = (first + (shift << table.knot_bits) + (x >> shift)) as usize;
        let here = table.rates[index];
        if shift == 0 {
            return here;
        }
        let share = (x & ((1 << shift) - 1)) as f32 / (1u32 << shift) as f32;
        here + (table.rates[index + 1] - here) * share
    }

    fn ulps(a: f32, b: f32) -> u32 {
        a.to_bits().abs_diff(b.to_bits())
    }

    /// Steps around everything that could matter, and some between.
    fn steps(around: &[u64]) -> Vec<u32> {
        let edges = around.iter().chain(&[0, 1 << 12, 1 << 16, 1 << 24, 1 << 31, 1 << 32]);
        let near = edges.flat_map(|&edge| {
            let far = (0..32).flat_map(|bit| [1u64 << bit, (1 << bit) * 4 / 3]);
            let both = |d: u64| [edge.saturating_sub(d), edge.saturating_add(d)];
            far.flat_map(both).chain([edge]).collect::<Vec<_>>()
        });
        near.filter_map(|t| u32::try_from(t).ok()).collect()
    }

    fn pair(warmup: usize, total: usize, final_factor: f64) -> [Schedule; 2] {
        [
            Schedule::Linear { warmup, total, final_factor },
            Schedule::Cosine { warmup, total, final_factor },
        ]
    }

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
        assert_eq!(cosine.table(2.0).unwrap().rates.len(), 15);
        assert_eq!(Schedule::default().table(0.5).unwrap().rates, [0.5]);
    }

    fn stable(warmup: usize, decay: usize, total: usize, final_factor: f64) -> [Schedule; 2] {
        [DecayShape::Linear, DecayShape::OneMinusSqrt].map(|shape| Schedule::WarmupStableDecay {
            warmup,
            decay,
            total,
            shape,
            final_factor,
        })
    }

    /// Hägele et al. 2024: n / N_warmup up to N_warmup, then 1, then 1 - (n - (N - N_decay)) / N_decay
    /// or 1 - √ of that.
    #[test]
    fn warm_up_then_stable_then_decay() {
        let [linear, root] = stable(4, 16, 30, 0.1);
        for schedule in [&linear, &root] {
            let early = [(0, 0.25), (2, 0.75), (3, 1.0), (4, 1.0), (9, 1.0), (13, 1.0), (14, 1.0)];
            for (t, factor) in early.into_iter().chain([(30, 0.1), (31, 0.1), (usize::MAX, 0.1)]) {
                assert_eq!(schedule.factor(t), factor, "{schedule:?} at {t}");
            }
        }
        for t in 14..30 {
            let over = (t - 14) as f64 / 16.0;
            for (schedule, shape) in [(&linear, 1.0 - over), (&root, 1.0 - over.sqrt())] {
                let expected = 0.1 + 0.9 * shape;
                let found = schedule.factor(t);
                assert!((found - expected).abs() < 1e-15, "{schedule:?} at {t}: {found}");
            }
        }
        // Without one of the parts.
        for schedule in stable(0, 0, 5, 0.5) {
            let factors: Vec<_> = (0..7).map(|t| schedule.factor(t)).collect();
            assert_eq!(factors, [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5], "{schedule:?}");
        }
        for schedule in stable(2, 4, 6, 0.0) {
            let ends = [0, 1, 2, 6].map(|t| schedule.factor(t));
            assert_eq!(ends, [0.5, 1.0, 1.0, 0.0], "{schedule:?}");
        }
        for schedule in stable(0, 0, 0, 0.2) {
            assert_eq!([schedule.factor(0), schedule.factor(9)], [0.2, 0.2], "{schedule:?}");
        }
    }

    /// With all of the run for the decay, a linear one is [`Schedule::Linear`].
    #[test]
    fn stable_for_no_time_is_linear() {
        for total in [9, 700, 100_000] {
            let [stable, _] = stable(3, total - 3, total, 0.25);
            let linear = Schedule::Linear { warmup: 3, total, final_factor: 0.25 };
            for t in steps(&[3, total as u64]) {
                let (found, expected) = (stable.factor(t as usize), linear.factor(t as usize));
                assert!((found - expected).abs() < 1e-15, "{t} of {total}: {found}");
            }
        }
    }

    /// Vaswani et al. 2017, equation 3, over its largest value.
    #[test]
    fn inverse_square_root() {
        for warmup in [1, 4, 4000] {
            let schedule = Schedule::InverseSquareRoot { warmup };
            let rate = |n: f64| n.powf(-0.5).min(n * (warmup as f64).powf(-1.5));
            let peak = rate(warmup as f64);
            for t in [0, 1, 2, 3, 4, warmup - 1, warmup, 4 * warmup - 1, 1_000_000] {
                let (found, expected) = (schedule.factor(t), rate(t as f64 + 1.0) / peak);
                assert!((found / expected - 1.0).abs() < 1e-14, "{warmup}, {t}: {found}");
            }
            assert_eq!(schedule.factor(warmup - 1), 1.0);
            assert_eq!(schedule.factor(4 * warmup - 1), 0.5);
        }
        let [none, one] = [0, 1].map(|warmup| Schedule::InverseSquareRoot { warmup });
        assert!((0..100).all(|t| none.factor(t) == one.factor(t)));
        let table = none.table(1.0).unwrap();
        assert_eq!([look_up(&table, 0), look_up(&table, 3)], [1.0, 0.5]);
        assert_eq!(look_up(&table, u32::MAX), 2f32.powi(-16));
    }

    /// One entry for each step, and each is f64 rounded once.
    #[test]
    fn short_schedules_are_exact() {
        let mut all = vec![Schedule::Constant { warmup: 0 }, Schedule::Constant { warmup: 7 }];
        all.push(Schedule::Factors(vec![0.3]));
        all.push(Schedule::Factors(vec![0.5, 2.0, 0.1]));
        let shapes =
            [(0, 0), (0, 1), (1, 1), (10, 10), (9, 10), (0, 7000), (3000, 65_535), (3, 65_536)];
        for (warmup, total) in shapes {
            for final_factor in [0.0, 0.1, 1.0, 3.0] {
                all.extend(pair(warmup, total, final_factor));
                for decay in [0, 1, 2, 3, (total - warmup) / 5, total - warmup] {
                    if decay <= total - warmup {
                        all.extend(stable(warmup, decay, total, final_factor));
                    }
                }
            }
        }
        for schedule in all {
            let table = schedule.table(0.3).unwrap();
            // Parts begin with an entry of their own.
            assert!(table.rates.len() <= LONGEST_EXACT + 2, "{schedule:?}");
            let ends = [table.middle_start, table.middle_end, table.decay_end].map(u64::from);
            for t in steps(&[&ends[..], &[7, 10, 3000, 7000]].concat()) {
                let expected = (0.3 * schedule.factor(t as usize)) as f32;
                assert_eq!(look_up(&table, t), expected, "{schedule:?} at {t}");
            }
        }
    }

    /// The formula of the fault: steps, factors in f64.
    #[test]
    fn the_end_holds() {
        for schedule in pair(10, 10, 0.1) {
            let rates: Vec<_> = (0..13).map(|t| schedule.factor(t)).collect();
            assert_eq!(rates[8..], [0.9, 1.0, 0.1, 0.1, 0.1], "{schedule:?}");
        }
        for schedule in pair(0, 0, 0.1) {
            assert_eq!([schedule.factor(0), schedule.factor(usize::MAX)], [0.1, 0.1]);
        }
    }

    #[test]
    fn long_schedules_are_within_two_ulp() {
        let mut all = vec![Schedule::Constant { warmup: usize::MAX }];
        let totals = [65_537, (1 << 24) + 1, 40_000_000, u32::MAX as usize, 1 << 33, usize::MAX];
        for total in totals {
            for warmup in [0, 1, 2000, total / 3, total - 1, total] {
                for final_factor in [0.0, 1e-9, 0.1, 1.0, 2.5] {
                    all.extend(pair(warmup, total, final_factor));
                    for decay in [1, 3, 50_000, (total - warmup) / 5, total - warmup] {
                        if decay <= total - warmup {
                            all.extend(stable(warmup, decay, total, final_factor));
                        }
                    }
                }
            }
        }
        for warmup in [0, 1, 2000, 65_537, 1 << 24, u32::MAX as usize - 1, usize::MAX] {
            all.push(Schedule::InverseSquareRoot { warmup });
        }
        for schedule in all {
            let table = schedule.table(6e-4).unwrap();
            let most = match schedule {
                Schedule::WarmupStableDecay { .. } => 250_000,
                _ => 172_036,
            };
            assert!(table.rates.len() <= most, "{schedule:?}: {}", table.rates.len());
            let ends = [schedule.warmup() as u64, u64::from(table.decay_end)];
            let middle = [table.middle_start, table.middle_end].map(u64::from);
            let ends = [ends, middle].concat();
            for t in steps(&ends) {
                let expected = (6e-4 * schedule.factor(t as usize)) as f32;
                let found = look_up(&table, t);
                assert!(ulps(found, expected) <= 2, "{schedule:?} at {t}: {found} for {expected}");
            }
        }
    }

    /// Against series, not against the same formula: (π x / 2)² for x of the span left.
    #[test]
    fn a_distant_end_is_reached_smoothly() {
        let total = 40_000_000;
        let [linear, cosine] = pair(0, total, 0.0).map(|schedule| schedule.table(1.0).unwrap());
        for left in [1u32, 2, 3, 100, 4095, 5000] {
            let x = f64::from(left) / total as f64;
            let t = total as u32 - left;
            assert!(ulps(look_up(&linear, t), x as f32) <= 2, "{left}");
            let square = ((FRAC_PI_2 * x).powi(2) - (FRAC_PI_2 * x).powi(4) / 3.0) as f32;
            assert!(ulps(look_up(&cosine, t), square) <= 2, "{left}");
        }
    }

    #[test]
    fn impossible_schedules_are_refused() {
        let refused = |schedule: Schedule, word: &str| {
            let error = schedule.table(1.0).unwrap_err().to_string();
            assert!(error.contains(word), "{schedule:?}: {error}");
        };
        for schedule in pair(5, 4, 0.0).into_iter().chain(pair(usize::MAX, 0, 0.0)) {
            refused(schedule, "at least the warm-up");
        }
        for (warmup, total) in [(0, 0), (0, 10), (10, 10)] {
            for final_factor in [f64::NAN, f64::INFINITY, -0.1] {
                for schedule in pair(warmup, total, final_factor) {
                    refused(schedule, "final_factor");
                }
            }
            for schedule in pair(warmup, total, 1e300) {
                refused(schedule, "in f32");
            }
        }
        let impossible = stable(3, 3, 5, 0.0).into_iter().chain(stable(1, usize::MAX, 5, 0.0));
        for schedule in impossible.chain(stable(usize::MAX, 1, 0, 0.0)) {
            refused(schedule, "at least warm-up and decay");
        }
        for final_factor in [f64::NAN, f64::INFINITY, -0.1] {
            for schedule in stable(0, 5, 10, final_factor) {
                refused(schedule, "final_factor");
            }
        }
        let of_rate = Schedule::InverseSquareRoot { warmup: 3 }.table(f64::MAX).unwrap_err();
        assert!(of_rate.to_string().contains("in f32"), "{of_rate}");
        refused(Schedule::Factors(vec![]), "at least one factor");
        refused(Schedule::Factors(vec![1.0, f64::NAN]), "the factor of step 1 is NaN");
        refused(Schedule::Factors(vec![1.0, -1.0, f64::NAN]), "the factor of step 1 is -1");
    }
}
