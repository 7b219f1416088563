//! The schedule: a table of what applied steps learn with, with knots where it is long.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::step::{self as reference, VerdictSettings};
use evenkeel::step::{StepInput, StepState, TensorState};

use super::super::support::{Tolerance, assert_close, block_on};
use super::ROUNDING;
use super::judge::{Judge, STAGED, flatten, fresh, plain, wide_state};

/// Only applied steps advance the schedule; its last learning rate stays.
pub fn check_schedule(gpu: &Gpu) {
    let settings = VerdictSettings { learning_rates: vec![0.1, 0.2, 0.3], ..plain() };
    let flat = flatten(&[vec![1.0, 2.0]]);
    let judge = Judge::with_factor(gpu, &flat, &settings, fresh(1.0), 0.5);
    let mut expected = wide_state(&fresh(1.0));
    for bad in [true, false, true, true, false, false, false, true, false] {
        let first = if bad { f32::NAN } else { 1.0 };
        judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
        judge.run(gpu);
        let scan = reference::gradient_scan(&[first.into(), 2.0]);
        expected = reference::verdict(&settings, &scan, 0.5, &expected);
        let state = judge.state(gpu);
        assert_close("rate", &[state.learning_rate], &[expected.learning_rate], ROUNDING);
        assert_eq!(state.applied_total, expected.applied_total);
        assert_eq!(state.skipped_total, expected.skipped_total);
        assert_eq!(state.skipped_in_row, expected.skipped_in_row);
    }
    assert_close("last rate", &[judge.state(gpu).learning_rate], &[0.15], ROUNDING);
}

const LINES: Tolerance =
    Tolerance { absolute: 0.0, relative: 2.4e-7, because: "two knots and a line in f32" };

/// x² by knots, x being the steps until the end: exact at every step close to it, by lines of four
/// to a doubling further out, which are off by 2^-6 of it at most. Clocks stop at the largest u32.
pub fn check_long_schedule(gpu: &Gpu) {
    const BITS: u32 = 2;
    const END: u32 = 4_000_000_000;
    let knot = |index: u32| {
        let shift = (index >> BITS).saturating_sub(1);
        f64::from(index - (shift << BITS)) * f64::from(shift).exp2()
    };
    let decay = (0..128).map(|index| (1e-20 * knot(index).powi(2)) as f32);
    // One step of rise in front.
    let rates: Vec<_> = std::iter::once(0.5).chain(decay).collect();
    let lines = |x: f64| {
        let above = (0..128).find(|&index| knot(index) > x).expect("a knot beyond");
        let (a, b) = (knot(above - 1), knot(above));
        1e-20 * (a * a + (b * b - a * a) * (x - a) / (b - a))
    };
    let params = VerdictParams {
        rising_steps: 1,
        decay_end: END,
        decay_first: 1,
        knot_bits: BITS,
        ..VerdictParams::new(1, [0.9, 0.999])
    };
    let steps = [0, 1, 2, 1000, 3_000_000_000, END - 77, END - 8, END - 7, END - 1, END, u32::MAX];
    for (t, state) in steps.into_iter().zip(states_after(gpu, params, &rates, &steps)) {
        let x = f64::from(END.saturating_sub(t));
        let expected = if t == 0 { 0.5 } else { lines(x) };
        assert_close(&format!("rate at {t}"), &[state.learning_rate], &[expected], LINES);
        let off = (expected - 1e-20 * x * x).abs();
        assert!(t == 0 || off <= 1e-20 * x * x / 64.0, "{t}: {off:e}");
        assert_eq!(state.applied_total, t.saturating_add(1));
    }
}

/// What the verdict makes of a step after so many applied ones.
fn states_after(gpu: &Gpu, params: VerdictParams, rates: &[f32], steps: &[u32]) -> Vec<StepState> {
    let learning_rates = gpu.upload("learning rates", rates);
    let tensors = gpu.upload("tensors", &[TensorState::default()]);
    let (loss, staged) = (gpu.upload("loss", &[2.5f32]), gpu.upload("staged", &STAGED));
    let input =
        gpu.upload("input", &[StepInput { learning_rate_factor: 1.0, ..Default::default() }]);
    let after = |&t: &u32| {
        let state = gpu.upload("state", &[StepState { applied_total: t, ..fresh(1.0) }]);
        gpu.run(&Verdict {
            params,
            input: input.as_entire_buffer_binding(),
            learning_rates: learning_rates.as_entire_buffer_binding(),
            loss: loss.as_entire_buffer_binding(),
            staged: staged.as_entire_buffer_binding(),
            tensors: tensors.as_entire_buffer_binding(),
            state: state.as_entire_buffer_binding(),
        });
        block_on(gpu.read(&state, 0, 1)).expect("readable")[0]
    };
    steps.iter().map(after).collect()
}

/// A rise of two steps, a constant, a line by knots, which lines between them do not bend, and what
/// is counted from the end.
pub fn check_middle_of_schedule(gpu: &Gpu) {
    const BITS: u32 = 2;
    const START: u32 = 1_000_000;
    const MIDDLE_END: u32 = 3_000_000_000;
    const END: u32 = MIDDLE_END + 7;
    let knot = |index: u32| {
        let shift = (index >> BITS).saturating_sub(1);
        f64::from(index - (shift << BITS)) * f64::from(shift).exp2()
    };
    let line = |x: f64| 1.0 + x * 2f64.powi(-30);
    let middle = (0..128).map(|index| line(knot(index)) as f32);
    let end = (0..8).map(|left| 100.0 + left as f32);
    let rates: Vec<_> = [0.25, 0.5].into_iter().chain(middle).chain(end).collect();
    let params = VerdictParams {
        rising_steps: 2,
        middle_end: MIDDLE_END,
        middle_start: START,
        middle_first: 2,
        decay_end: END,
        decay_first: 130,
        knot_bits: BITS,
        ..VerdictParams::new(1, [0.9, 0.999])
    };
    let expected = |t: u32| match t {
        0 => 0.25,
        1 => 0.5,
        _ if t < MIDDLE_END => line(f64::from(t.saturating_sub(START))),
        _ => 100.0 + f64::from(END.saturating_sub(t)),
    };
    let early = [0, 1, 2, 3, START - 1, START, START + 1, START + 7, START + 8, START + 9];
    let later = [START + 100, START + 54_321, 1 << 30, MIDDLE_END - 1, MIDDLE_END];
    let steps = [&early[..], &later, &[MIDDLE_END + 1, END - 1, END, END + 1, u32::MAX]].concat();
    for (&t, state) in steps.iter().zip(states_after(gpu, params, &rates, &steps)) {
        assert_close(&format!("rate at {t}"), &[state.learning_rate], &[expected(t)], LINES);
    }
}
