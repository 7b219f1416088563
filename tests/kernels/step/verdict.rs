//! What a step comes to: what it changes, and what a skipped one leaves alone, bit by bit.

use evenkeel::Gpu;
use evenkeel::reference::step::{self as reference, Norm, VerdictSettings};
use evenkeel::step::{APPLY, Reason, SKIP, StepState, TensorState};

use super::super::support::{Tolerance, assert_close, values, wide};
use super::judge::{Judge, SCALING, check, clip, flatten, fresh, plain, wide_state};
use super::loss_scale::{check_give_up, check_loss_scale};
use super::schedule::{check_long_schedule, check_middle_of_schedule, check_schedule};
use super::{FINITE, NONFINITE, NORM, ROUNDING};

pub fn verdict(gpu: &Gpu) {
    check_skip(gpu);
    check_schedule(gpu);
    check_long_schedule(gpu);
    check_middle_of_schedule(gpu);
    check_bias_corrections(gpu);
    check_policies(gpu);
    check_loss_scale(gpu);
    check_give_up(gpu);
    check_loss_and_states(gpu);

    for settings in [plain(), clip(Norm::L2, 1.0), clip(Norm::Max, 1.0)] {
        for tensors in [vec![], vec![vec![]], vec![vec![0.0; 10], vec![-0.0; 2049]]] {
            let state = check(gpu, "nothing but zeros", &tensors, &settings, 1.0);
            assert_eq!((state.gradient_norm, state.clip_coefficient), (0.0, 1.0));
        }
    }
    for (asked, expected) in [(0.5, 0.5), (1e18, 1e18), (3e38, 1e18)] {
        let settings = VerdictSettings { clip_value: asked, ..plain() };
        let state = check(gpu, "clip value", &[vec![1.0]], &settings, 1.0);
        assert_eq!(state.clip_value, expected);
    }
}

/// A skipped step leaves all but its own fields as they were, bit by bit.
fn check_skip(gpu: &Gpu) {
    let flat = flatten(&[values(1, 100), values(2, 3000)]);
    let before = StepState {
        growth_count: 17,
        applied_total: 41,
        skipped_total: 5,
        gradient_norm: 1.5,
        clip_coefficient: 0.5,
        gradient_scale: 0.25,
        clip_value: 2.0,
        learning_rate: 0.125,
        verdict: APPLY,
        skipped_in_row: 2,
        gradient_prescale: 0.5,
        ..fresh(1024.0)
    };
    let clock = TensorState {
        clip_coefficient: 1.0,
        bias_correction1: 0.3,
        bias_correction2: 0.02,
        steps: 41,
        ..Default::default()
    };
    for bits in NONFINITE {
        let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 1.0), before);
        gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&[clock; 2]));
        let mut elements = flat.elements.clone();
        elements[2000] = f32::from_bits(bits);
        elements[2001] = 0.0;
        judge.set_gradient(gpu, &elements);
        judge.run(gpu);
        let found = judge.state(gpu);
        let expected = StepState {
            verdict: SKIP,
            reason: Reason::NonFiniteGradient as u32,
            skipped_total: 6,
            skipped_in_row: 3,
            gradient_norm: f32::INFINITY,
            nonfinite_count: 1,
            zero_count: 1,
            max_norm: 1.0,
            // Without meaning where the norm is Inf.
            norm_significand: found.norm_significand,
            norm_exponent: found.norm_exponent,
            ..before
        };
        assert_eq!(found, expected, "{bits:#x}");
        assert_eq!(judge.tensors(gpu), [clock; 2], "{bits:#x}");
        judge.set_gradient(gpu, &flat.elements);
        judge.run(gpu);
        let state = judge.state(gpu);
        let scan = reference::gradient_scan(&wide(&flat.elements[..100 + 3000]));
        let settings = clip(Norm::L2, 1.0);
        let good = reference::verdict(&settings, &scan, 1.0, &wide_state(&expected));
        assert_eq!((state.applied_total, state.skipped_total, state.skipped_in_row), (42, 6, 0));
        assert_eq!((state.verdict, state.reason, state.growth_count), (APPLY, 0, 17));
        assert_close("norm", &[state.gradient_norm], &[good.gradient_norm], NORM);
        let tensor = judge.tensors(gpu)[1];
        assert_close("bias correction", &[tensor.bias_correction1], &[0.3 * 0.9 + 0.1], ROUNDING);
        assert_eq!(tensor.steps, 42);
    }
}

/// A loss or a staged state that is not finite skips the step and leaves the loss scale alone; the
/// gradient comes first as a reason, the loss next.
fn check_loss_and_states(gpu: &Gpu) {
    let flat = flatten(&[values(1, 100)]);
    let settings = VerdictSettings { scaling: Some(SCALING), ..plain() };
    let judged = |loss: u32, staged: Option<(u64, u32)>, gradient: f32, veto: u32| {
        let before = StepState { growth_count: 17, applied_total: 41, ..fresh(1024.0) };
        let judge = Judge::new(gpu, &flat, &settings, before);
        judge.set_gradient(gpu, &[gradient]);
        gpu.write(&judge.loss, 0, bytemuck::bytes_of(&loss));
        if let Some((index, bits)) = staged {
            gpu.write(&judge.staged, 4 * index, bytemuck::bytes_of(&bits));
        }
        judge.run_first(gpu, 2);
        let mut state = judge.state(gpu);
        state.veto = veto;
        gpu.write(&judge.state, 0, bytemuck::bytes_of(&state));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &judge.dispatches[2..]);
        gpu.submit(encoder);
        let (reason, state) = (Reason::from_bits(judge.state(gpu).reason), judge.state(gpu));
        let is_skipped = reason != Reason::None;
        assert_eq!(state.verdict, if is_skipped { SKIP } else { APPLY });
        assert_eq!([state.skipped_total, state.skipped_in_row], [u32::from(is_skipped); 2]);
        assert!(judge.tensors(gpu).iter().all(|t| t.steps == u32::from(!is_skipped)));
        if reason != Reason::NonFiniteGradient {
            assert_eq!((state.loss_scale, state.nonfinite_count), (1024.0, 0));
            assert_eq!(state.growth_count, 17 + u32::from(!is_skipped));
        }
        reason
    };
    let (good, spike) = (2.5f32.to_bits(), Reason::NormSpike as u32);
    for bits in FINITE {
        assert_eq!(judged(bits, Some((7, bits)), 1.0, 0), Reason::None, "{bits:#x}");
    }
    for bits in NONFINITE {
        let what = format!("{bits:#x}");
        assert_eq!(judged(bits, None, 1.0, 0), Reason::NonFiniteLoss, "{what}");
        assert_eq!(judged(bits, Some((0, bits)), 1.0, spike), Reason::NonFiniteLoss, "{what}");
        assert_eq!(judged(bits, None, f32::NAN, 0), Reason::NonFiniteGradient, "{what}");
    }
    for (place, bits) in [0, 1, 2, 3, 1023, 1024, 1199].into_iter().zip(NONFINITE) {
        let staged = Some((place, bits));
        assert_eq!(judged(good, staged, 1.0, spike), Reason::NonFiniteState, "{place}: {bits:#x}");
        assert_eq!(judged(good, staged, f32::INFINITY, 0), Reason::NonFiniteGradient);
    }
}

/// What policies set between norm and verdict is obeyed.
fn check_policies(gpu: &Gpu) {
    let flat = flatten(&[vec![3.0], vec![4.0], vec![]]);
    let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 10.0), fresh(1.0));
    let set = |change: &dyn Fn(&mut StepState)| {
        judge.run_first(gpu, 2);
        let mut state = judge.state(gpu);
        change(&mut state);
        gpu.write(&judge.state, 0, bytemuck::bytes_of(&state));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, &judge.dispatches[2..]);
        gpu.submit(encoder);
        judge.state(gpu)
    };
    let state = set(&|state| state.veto = Reason::LossSpike as u32);
    assert_eq!((state.verdict, state.reason), (SKIP, Reason::LossSpike as u32));
    assert_eq!((state.skipped_total, state.applied_total, state.skipped_in_row), (1, 0, 1));
    assert!(judge.tensors(gpu).iter().all(|tensor| tensor.steps == 0));
    let state = set(&|state| state.max_norm = 1.25);
    assert_eq!((state.verdict, state.clip_coefficient), (APPLY, 0.25));
    let state = set(&|state| state.learning_rate_factor = 0.5);
    assert_eq!((state.clip_coefficient, state.learning_rate), (1.0, 0.5));

    let mut tensors = judge.tensors(gpu);
    let clock = tensors[0];
    assert_eq!((clock.steps, clock.reset), (2, 0));
    tensors[1].reset = 1;
    gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&tensors));
    set(&|state| state.veto = Reason::NormSpike as u32);
    assert_eq!(judge.tensors(gpu), tensors, "a skipped step empties no moments");
    judge.run(gpu);
    let tensors = judge.tensors(gpu);
    assert_eq!(
        tensors.iter().map(|t| (t.steps, t.reset)).collect::<Vec<_>>(),
        [(3, 0), (1, 0), (3, 0)]
    );
    assert_close("reset", &[tensors[1].bias_correction1], &[0.1], ROUNDING);
    assert_close("not reset", &[tensors[0].bias_correction1], &[1.0 - 0.9f64.powi(3)], ROUNDING);
}

fn check_bias_corrections(gpu: &Gpu) {
    // The sums of the weights that moments have, with the factors as they are in f32.
    let sum = |beta: f64, t: i32| {
        let (factor, rest) = (f64::from(beta as f32), f64::from((1.0 - beta) as f32));
        rest * (1.0 - factor.powi(t)) / (1.0 - factor)
    };
    let judge = Judge::new(gpu, &flatten(&[vec![1.0]]), &plain(), fresh(1.0));
    for t in 1..=1000 {
        judge.run(gpu);
        if t < 5 || t % 100 == 0 {
            let tensor = judge.tensors(gpu)[0];
            let corrections = [tensor.bias_correction1, tensor.bias_correction2];
            let tolerance = Tolerance {
                absolute: 0.0,
                relative: f64::from(t) * f64::from(f32::EPSILON),
                because: "two roundings in each step",
            };
            let expected = [sum(0.9, t), sum(0.999, t)];
            assert_close(&format!("step {t}"), &corrections, &expected, tolerance);
        }
    }
}
