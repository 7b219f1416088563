//! The dynamic loss scale, step by step.

use evenkeel::Gpu;
use evenkeel::reference::step::{self as reference, Scaling, VerdictSettings};
use evenkeel::step::{Event, Reason, StepState};

use super::judge::{Judge, SCALING, assert_state, flatten, fresh, plain, wide_state};

/// Runs `bad` (true for an overflow) step by step and compares with the reference. Returns the
/// loss scale and the growth count after each step.
fn scales(gpu: &Gpu, scaling: Scaling, init: f32, bad: &[bool]) -> Vec<(f32, u32)> {
    let settings = VerdictSettings { scaling: Some(scaling), ..plain() };
    let start = StepState::new(init, scaling.hysteresis);
    let judge = Judge::new(gpu, &flatten(&[vec![1.0, 2.0]]), &settings, start);
    let mut expected = wide_state(&start);
    let step = |(i, &bad): (usize, &bool)| {
        let first =
            if bad { f32::from_bits([0x7fc0_0000, 0x7f80_0000, 0xff7f_ffff][i % 3]) } else { 1.0 };
        judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
        judge.run(gpu);
        let overflow = if bad { f64::INFINITY } else { 1.0 };
        let scan = reference::gradient_scan(&[overflow, 2.0]);
        let before = expected;
        expected = reference::verdict(&settings, &scan, 1.0, &expected);
        let state = judge.state(gpu);
        assert_state(&format!("{scaling:?}, step {i}"), &state, &scan, &expected);
        assert_eq!(f64::from(state.step_loss_scale), before.loss_scale);
        let moved = |event: Event| state.events & event as u32 != 0;
        assert_eq!(moved(Event::LossScaleDown), expected.loss_scale < before.loss_scale);
        assert_eq!(moved(Event::LossScaleUp), expected.loss_scale > before.loss_scale);
        (state.loss_scale, state.growth_count)
    };
    bad.iter().enumerate().map(step).collect()
}

pub fn check_loss_scale(gpu: &Gpu) {
    // torch: test_grad_scaling_update_scale.
    let torch = Scaling { growth: 2.0, backoff: 0.25, interval: 2, ..SCALING };
    let found = scales(gpu, torch, 4.0, &[false, false, true]);
    assert_eq!(found, [(4.0, 1), (8.0, 0), (2.0, 0)]);
    // jmp: a period of 20.
    let jmp = Scaling { interval: 20, ..SCALING };
    let found = scales(gpu, jmp, 10.0, &[false; 20]);
    let expected: Vec<_> = (1..20).map(|count| (10.0, count)).chain([(20.0, 0)]).collect();
    assert_eq!(found, expected);
    let found = scales(gpu, Scaling { growth: 3.0, ..jmp }, 30.0, &[false; 20]);
    assert_eq!(found.last(), Some(&(90.0, 0)));
    // 100 overflows in a row, and what is left at the minimum.
    for min in [1.0, 0.3125, 0.37f32].map(f64::from) {
        let found = scales(gpu, Scaling { min, ..SCALING }, 10.0, &[true; 100]);
        for (k, (scale, _)) in (1..).zip(found) {
            assert_eq!(f64::from(scale), min.max(10.0 / 2f64.powi(k)));
        }
    }
    let found = scales(gpu, SCALING, 65_536.0, &[true; 40]);
    assert_eq!(found.last(), Some(&(1.0, 0)), "never 0");
    // A growth beyond f32 does not happen.
    let eager = Scaling { interval: 1, ..SCALING };
    let found = scales(gpu, eager, 2f32.powi(125), &[false; 5]);
    let powers: Vec<_> = found.iter().map(|&(scale, _)| scale.log2()).collect();
    assert_eq!(powers, [126.0, 127.0, 127.0, 127.0, 127.0]);
    let found = scales(gpu, Scaling { max: 8.0, ..eager }, 1.0, &[false; 6]);
    assert_eq!(found.last(), Some(&(8.0, 0)));
    // Hysteresis 2: only growth refills it in Megatron-LM, every clean step in Apex.
    let megatron = Scaling { hysteresis: 2, ..SCALING };
    let found = scales(gpu, megatron, 8.0, &[true, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 4.0, 2.0]);
    let apex = Scaling { refill_every_step: true, ..megatron };
    let found = scales(gpu, apex, 8.0, &[true, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 8.0, 4.0]);
    let refilled = Scaling { interval: 2, ..megatron };
    let found = scales(gpu, refilled, 8.0, &[true, false, false, true, true]);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [8.0, 8.0, 16.0, 16.0, 8.0]);
}

/// Once training has given up, good gradients change nothing either.
pub fn check_give_up(gpu: &Gpu) {
    let flat = flatten(&[vec![1.0, 2.0]]);
    let run = |settings: &VerdictSettings, init: f32, bad: &[bool]| {
        let judge = Judge::new(gpu, &flat, settings, fresh(init));
        for &bad in bad {
            let first = if bad { f32::INFINITY } else { 1.0 };
            judge.set_gradient(gpu, &[first, 2.0, 0.0, 0.0]);
            judge.run(gpu);
        }
        judge.state(gpu)
    };
    let three = VerdictSettings { give_up_after: 3, ..plain() };
    let state = run(&three, 1.0, &[true, true, false, true, true]);
    assert_eq!((state.gave_up, state.applied_total), (0, 1));
    let state = run(&three, 1.0, &[true, true, true, false, false]);
    assert_eq!(state.gave_up, Reason::NonFiniteGradient as u32);
    assert_eq!((state.reason, state.applied_total), (Reason::GaveUp as u32, 0));
    assert_eq!((state.skipped_total, state.skipped_in_row), (5, 5));
    let at_min = Some(Scaling { give_up_at_min: true, ..SCALING });
    let at_min = VerdictSettings { scaling: at_min, ..plain() };
    assert_eq!(run(&at_min, 4.0, &[true, true]).gave_up, 0, "it has just reached the minimum");
    let state = run(&at_min, 4.0, &[true, true, true, false]);
    assert_eq!((state.gave_up, state.loss_scale), (Reason::NonFiniteGradient as u32, 1.0));
    assert_eq!((state.applied_total, state.reason), (0, Reason::GaveUp as u32));
}
