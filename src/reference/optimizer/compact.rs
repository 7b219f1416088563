//! Rules whose moments are rounded after each step: to bf16, or to dynamic codes in blocks.

use super::{AdamSettings, LionSettings, adam, adamw, lion};
use crate::reference::random::threefry4x32;
use crate::reference::step::State;
use crate::reference::weights::round_stochastically;

/// Last key word of the random streams of moments.
const DOMAIN_MOMENTS: u32 = 7;

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// The random numbers below 2^16 for element `index` of the flat buffers of the first and the second
/// moment, in the applied step of this number.
pub fn moment_draws(seed: u32, applied_total: u32, index: usize) -> [u32; 2] {
    let counter = [(index / 4) as u32, applied_total, 0, 0];
    let words = threefry4x32(counter, [seed, 0, 0, DOMAIN_MOMENTS]);
    [0, 2].map(|first| {
        let word = words[first + index % 4 / 2];
        if index.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
    })
}

/// All values of a code, from 0 to 1: the dynamic map of Dettmers et al. 2022 with as many decades as
/// bits less one.
pub fn code_values(bits: u32) -> Vec<f64> {
    let mut values = vec![0.0];
    for decade in 1..bits {
        let parts = 1u32 << decade;
        let power = 10f64.powi(decade as i32 + 1 - bits as i32);
        let middle = |i| 0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(parts);
        values.extend((0..parts).map(|i| power * middle(i)));
    }
    values.push(1.0);
    values
}

/// One of the two values of the code around each of these, relative to the largest magnitude of its
/// block; of a square that is not zero, none that is. The tensor begins a block.
pub fn quantized(moments: &[f64], draws: &[u32], are_squares: bool) -> Vec<f64> {
    let values = code_values(if are_squares { 8 } else { 7 });
    let mut stored = Vec::with_capacity(moments.len());
    for (block, draws) in moments.chunks(BLOCK).zip(draws.chunks(BLOCK)) {
        let scale = block.iter().fold(1e-30, |scale: f64, x| scale.max(x.abs()));
        for (&x, &draw) in block.iter().zip(draws) {
            let share = x.abs() / scale;
            let above = values.partition_point(|&value| value <= share).min(values.len() - 1);
            let [low, high] = [values[above - 1], values[above]];
            let goes_up = (share - low) / (high - low) * 65536.0 > f64::from(draw) + 0.5;
            let mut code = if goes_up { above } else { above - 1 };
            if are_squares && x > 0.0 {
                code = code.max(1);
            }
            stored.push(values[code].copysign(x) * scale);
        }
    }
    stored
}

/// Each rounded to one of its neighbours in bf16.
pub fn rounded_to_bf16(moments: &[f64], draws: &[u32]) -> Vec<f64> {
    let round = |(&x, &draw): (&f64, &u32)| f64::from(round_stochastically(x as f32, draw));
    moments.iter().zip(draws).map(round).collect()
}

/// How moments are stored, given those of a tensor, draws, and whether they are squares.
type Store = fn(&[f64], &[u32], bool) -> Vec<f64>;

fn store_bf16(moments: &[f64], draws: &[u32], _: bool) -> Vec<f64> {
    rounded_to_bf16(moments, draws)
}

fn store(moments: &mut [(f64, f64)], draws: &[[u32; 2]], store: Store) {
    let halves = |which: usize| -> Vec<u32> { draws.iter().map(|draws| draws[which]).collect() };
    let first: Vec<_> = moments.iter().map(|&(m, _)| m).collect();
    let second: Vec<_> = moments.iter().map(|&(_, v)| v).collect();
    let stored = store(&first, &halves(0), false).into_iter().zip(store(&second, &halves(1), true));
    moments.iter_mut().zip(stored).for_each(|(moments, stored)| *moments = stored);
}

/// [`adamw`] with moments in bf16; draws by element, as [`moment_draws`] has them.
pub fn adamw_bf16(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
    draws: &[[u32; 2]],
) {
    adamw(settings, state, gradient, weight, moments);
    store(moments, draws, store_bf16);
}

/// [`adam`] with moments in bf16.
pub fn adam_bf16(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
    draws: &[[u32; 2]],
) {
    adam(settings, state, gradient, weight, moments);
    store(moments, draws, store_bf16);
}

/// [`adamw`] with moments in codes of 8 bits.
pub fn adamw_blocks(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
    draws: &[[u32; 2]],
) {
    adamw(settings, state, gradient, weight, moments);
    store(moments, draws, quantized);
}

/// [`adam`] with moments in codes of 8 bits.
pub fn adam_blocks(
    settings: &AdamSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    moments: &mut [(f64, f64)],
    draws: &[[u32; 2]],
) {
    adam(settings, state, gradient, weight, moments);
    store(moments, draws, quantized);
}

/// [`lion`] with a momentum in bf16.
pub fn lion_bf16(
    settings: &LionSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum: &mut [f64],
    draws: &[u32],
) {
    lion(settings, None, state, gradient, weight, momentum);
    momentum.copy_from_slice(&rounded_to_bf16(momentum, draws));
}

/// [`lion`] with a momentum in codes of 8 bits.
pub fn lion_blocks(
    settings: &LionSettings,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    momentum: &mut [f64],
    draws: &[u32],
) {
    lion(settings, None, state, gradient, weight, momentum);
    momentum.copy_from_slice(&quantized(momentum, draws, false));
}
