//! The table of a schedule.
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

use super::Schedule;
use crate::error::Result;

/// The longest schedule with an entry for every step.
pub(super) const LONGEST_EXACT: usize = 1 << 16;

/// Knots per doubling of a longer one: 2 to this.
const KNOT_BITS: u32 = 12;

/// Learning rates for the device; `shaders/step/shared/schedule.wgsl` looks them up.
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
