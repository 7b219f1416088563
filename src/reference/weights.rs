//! The optimizer's storages of weights, value by value: f64 arithmetic on numbers that are exact in
//! bf16 or f32.

use super::random::threefry4x32;
use crate::kernel::WeightStorage;

/// Last key word of the random streams of stochastic rounding.
const DOMAIN_ROUNDING: u32 = 5;

/// A weight as it is stored: what kernels compute with, and what is kept beside it, which is a
/// compensation, a remainder in units of the last place of f32, or nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stored {
    /// A value of bf16, or of f32 in [`WeightStorage::F32`].
    pub weight: f32,
    /// The second value.
    pub beside: f64,
}

/// The nearest bf16, ties to even.
pub fn round_to_bf16(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    // Eight digits of significand; fewer below the smallest normal number.
    let unit = 2f64.powi(exponent.max(-126) - 7);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() < 2f64.powi(128) { rounded } else { f64::INFINITY.copysign(x) }
}

/// `x` in bits of f32, which its neighbours differ from by one.
fn ordinal(x: f32) -> i64 {
    let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
    if x.is_sign_negative() { -magnitude } else { magnitude }
}

/// Values as they are first stored.
pub fn store_weights(storage: WeightStorage, values: &[f32]) -> Vec<Stored> {
    let store = |&x: &f32| match storage {
        WeightStorage::F32 => Stored { weight: x, beside: 0.0 },
        WeightStorage::Bf16Stochastic => {
            Stored { weight: round_to_bf16(x.into()) as f32, beside: 0.0 }
        }
        WeightStorage::Bf16Kahan => {
            let weight = round_to_bf16(x.into());
            let lost = f64::from(x) - weight;
            Stored { weight: weight as f32, beside: round_to_bf16(lost) }
        }
        WeightStorage::Bf16Split => {
            // Neighbours in bf16 are 2^16 apart; halves are rounded away from zero.
            let upper = (ordinal(x).abs() + 0x8000) / 0x1_0000;
            let weight = f32::from_bits((upper as u32) << 16).copysign(x);
            Stored { weight, beside: (ordinal(x).abs() - upper * 0x1_0000) as f64 }
        }
    };
    values.iter().map(store).collect()
}

/// What stored values stand for.
pub fn load_weights(storage: WeightStorage, stored: &[Stored]) -> Vec<f64> {
    let load = |s: &Stored| match storage {
        WeightStorage::F32 | WeightStorage::Bf16Stochastic => s.weight.into(),
        WeightStorage::Bf16Kahan => f64::from(s.weight) + s.beside,
        WeightStorage::Bf16Split => {
            let magnitude = ordinal(s.weight.abs()) + s.beside as i64;
            f32::from_bits(magnitude as u32).copysign(s.weight).into()
        }
    };
    stored.iter().map(load).collect()
}

/// An exponential moving average after the applied step of number `t`, counted from 1: with a decay
/// of min(decay, (1 + t) / (10 + t)) where it warms up. What would not be finite stays.
pub fn average_weights(
    average: &[f64],
    weights: &[f64],
    decay: f64,
    warms_up: bool,
    t: u32,
) -> Vec<f64> {
    let t = f64::from(t);
    let decay = if warms_up { decay.min((1.0 + t) / (10.0 + t)) } else { decay };
    let advance = |(&old, &weight): (&f64, &f64)| {
        let new = decay * old + (1.0 - decay) * weight;
        if new.is_finite() { new } else { old }
    };
    average.iter().zip(weights).map(advance).collect()
}

/// Which rounding of a weight in a step.
#[derive(Clone, Copy, Debug)]
pub enum Use {
    /// The optimizer's.
    Update = 0,
    /// That of what scales weights after the optimizer.
    Scale = 1,
}

/// The random number below 2^16 for element `index` of a flat buffer, in the applied step of this
/// number, counted from 1.
pub fn rounding_draw(seed: u32, applied_total: u32, index: usize, rounding: Use) -> u32 {
    let counter = [(index / 4) as u32, applied_total, rounding as u32, 0];
    let words = threefry4x32(counter, [seed, 0, 0, DOMAIN_ROUNDING]);
    let word = words[index % 4 / 2];
    if index.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
}

/// One of the two neighbours of `x` in bf16: the one away from zero if the share of the way to it
/// that `x` has come is more than 1 - (draw + 1) / 2^16, which happens with just that share's
/// probability. Past the largest bf16, that one.
pub fn round_stochastically(x: f32, draw: u32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let below = ordinal(x.abs()) / 0x1_0000;
    let past = ordinal(x.abs()) - below * 0x1_0000;
    let up = past + i64::from(draw) >= 0x1_0000;
    let chosen = (below + i64::from(up)).min(0x7f7f);
    f32::from_bits((chosen as u32) << 16).copysign(x)
}

/// One update of a compensated weight: the new weight and the new compensation.
pub fn compensate(stored: Stored, change: f64) -> Stored {
    let wanted = stored.beside + change;
    let weight = round_to_bf16(f64::from(stored.weight) + wanted);
    let beside = round_to_bf16(wanted + (f64::from(stored.weight) - weight));
    Stored { weight: weight as f32, beside }
}
