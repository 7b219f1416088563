//! Scan and norm of gradients: over the whole range of f32, and bit by bit where they are not finite.

use evenkeel::Gpu;
use evenkeel::reference::step::{self as reference, Norm};
use evenkeel::step::{StepState, TensorState};

use super::super::support::{assert_close, values, wide};
use super::judge::{Judge, any_finite, check, clip, flatten, fresh, plain, wide_state};
use super::{FINITE, NONFINITE, NORM};

pub fn gradient_scan(gpu: &Gpu) {
    for size in [1, 3, 4, 255, 256, 257, 1009, 2047, 2048, 2049, 65_535, 65_536, 65_537] {
        let mut gradient = values(size as u64, size);
        gradient.iter_mut().step_by(7).for_each(|g| *g = 0.0);
        gradient.iter_mut().skip(3).step_by(11).for_each(|g| *g = -0.0);
        check(gpu, &format!("{size} elements"), &[gradient], &plain(), 1.0);
    }
    let short: Vec<_> = (1..=9).map(|length| values(length, length as usize)).collect();
    check(gpu, "lengths 1 to 9", &short, &plain(), 1.0);
    for empty in [0, 1, 2] {
        let mut tensors = vec![values(1, 5), values(2, 2050)];
        tensors.insert(empty, Vec::new());
        check(gpu, &format!("tensor {empty} is empty"), &tensors, &plain(), 1.0);
    }
    // More chunks than a dimension of a grid takes, and than a verdict's block of partials.
    let tiny: Vec<_> = values(3, 70_001).into_iter().map(|g| vec![g]).collect();
    check(gpu, "70,001 tensors", &tiny, &plain(), 1.0);
    check(gpu, "any finite", &[any_finite(1, 40_000)], &plain(), 1.0);
    check_bits(gpu);
    check_repeats(gpu);
}

/// The test on bits sees every NaN and Inf wherever it is, and nothing else.
fn check_bits(gpu: &Gpu) {
    let lengths = [5, 2049, 0, 1000];
    let tensors: Vec<_> = lengths.iter().map(|&n| values(n as u64, n)).collect();
    let flat = flatten(&tensors);
    let judge = Judge::new(gpu, &flat, &plain(), fresh(1.0));
    for place in [(0, 0), (1, 1024), (1, 2047), (1, 2048), (3, 500), (3, 999)] {
        let at = flat.table[place.0].0 as usize + place.1;
        for bits in NONFINITE.into_iter().chain(FINITE) {
            let mut elements = flat.elements.clone();
            elements[at] = f32::from_bits(bits);
            judge.set_gradient(gpu, &elements);
            judge.run(gpu);
            let expected = u32::from(NONFINITE.contains(&bits));
            let count: u32 = judge.partials(gpu).iter().map(|p| p.nonfinite_count).sum();
            assert_eq!(count, expected, "{bits:#x} at {place:?}");
            let state = judge.state(gpu);
            assert_eq!(state.nonfinite_count, expected, "{bits:#x} at {place:?}");
            assert_eq!(state.verdict, 1 - expected, "{bits:#x} at {place:?}");
        }
    }
    let all: Vec<_> = NONFINITE.into_iter().chain(FINITE).map(f32::from_bits).collect();
    let state = check(gpu, "all at once", &[all], &plain(), 1.0);
    assert_eq!(state.nonfinite_count, NONFINITE.len() as u32);
}

fn check_repeats(gpu: &Gpu) {
    let tensors: Vec<_> = (0..20).map(|i| values(i, 97 * i as usize)).collect();
    let judge = Judge::new(gpu, &flatten(&tensors), &clip(Norm::L2, 0.5), fresh(1.0));
    judge.run(gpu);
    let (partials, norm) = (judge.partials(gpu), judge.state(gpu).gradient_norm);
    for _ in 0..100 {
        judge.run(gpu);
        assert_eq!(judge.partials(gpu), partials);
        assert_eq!(judge.state(gpu).gradient_norm.to_bits(), norm.to_bits());
    }
}

pub fn gradient_norm(gpu: &Gpu) {
    check_extremes(gpu);
    check_pytorch_cases(gpu);
    check_constant_lists(gpu);
    check_opening(gpu);
    check_lanes(gpu);
}

/// Workgroups of 4 on a CPU, with and without subgroups of 8, and those of GPUs join in one order. A
/// root hides half of what sums in another order would differ by, hence several gradients.
fn check_lanes(gpu: &Gpu) {
    let gradient = |seed: u64| {
        let mut tensors: Vec<_> =
            (seed..seed + 700).map(|i| values(i, 1 + i as usize % 7)).collect();
        tensors.push(values(seed + 701, 150_003));
        flatten(&tensors)
    };
    let gradients: Vec<_> = (0..16).map(|i| gradient(1000 * i)).collect();
    let of_device = |device_type, subgroup_size| {
        let mut gpu = gpu.clone();
        gpu.info.device_type = device_type;
        (gpu.info.subgroup_min_size, gpu.info.subgroup_max_size) = (subgroup_size, subgroup_size);
        let judged = |flat| {
            let judge = Judge::new(&gpu, flat, &clip(Norm::L2, 0.5), fresh(1.0));
            judge.run(&gpu);
            (judge.partials(&gpu), judge.state(&gpu))
        };
        gradients.iter().map(judged).collect::<Vec<_>>()
    };
    let few = of_device(wgpu::DeviceType::Cpu, 4);
    assert!(few == of_device(wgpu::DeviceType::DiscreteGpu, 32), "64 and 256 invocations");
    let largest = gpu.info.subgroup_max_size;
    assert!(few == of_device(wgpu::DeviceType::Cpu, largest), "subgroups of {largest}");
}

/// What policies set in one step is gone in the next.
fn check_opening(gpu: &Gpu) {
    let flat = flatten(&[vec![3.0], vec![4.0; 2049], vec![]]);
    let before = StepState {
        veto: 3,
        max_norm: 0.25,
        learning_rate_factor: 0.5,
        events: 7,
        event_value: 9.0,
        event_tensor: 2,
        ..fresh(2.0)
    };
    let judge = Judge::new(gpu, &flat, &clip(Norm::L2, 6.5), before);
    let tensor = TensorState { clip_coefficient: 0.125, steps: 4, ..Default::default() };
    gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&[tensor; 3]));
    judge.run_first(gpu, 2);
    let state = judge.state(gpu);
    let norm = (9.0 + 16.0 * 2049.0f64).sqrt() / 2.0;
    assert_close("norm", &[state.gradient_norm], &[norm], NORM);
    let wide = f64::from(state.norm_significand) * 2f64.powi(state.norm_exponent);
    assert_close("wide norm", &[wide as f32], &[norm], NORM);
    let expected = StepState {
        gradient_norm: state.gradient_norm,
        norm_significand: state.norm_significand,
        norm_exponent: state.norm_exponent,
        max_norm: 6.5,
        ..fresh(2.0)
    };
    assert_eq!(state, expected);
    assert_eq!(judge.tensors(gpu), [TensorState { clip_coefficient: 1.0, ..tensor }; 3]);
}

/// Norms that naive f32 arithmetic gives as 0 or Inf.
fn check_extremes(gpu: &Gpu) {
    let mix: Vec<_> = (0..3000).map(|i| if i % 2 == 0 { 1e30 } else { -1e-30 }).collect();
    let mut apart = vec![1e-30; 5000];
    apart[4999] = 1e30;
    let cases = [
        ("1000 x 1e20", vec![1e20; 1000]),
        ("1000 x 1e-25", vec![-1e-25; 1000]),
        ("1000 x 1e-42", vec![1e-42; 1000]),
        ("one smallest subnormal", vec![f32::from_bits(1)]),
        ("5000 x f32::MAX", vec![f32::MAX; 5000]),
        ("1e30 and 1e-30", mix),
        ("1e30 in another chunk than 1e-30", apart),
        ("any finite", any_finite(5, 3000)),
    ];
    for (name, gradient) in cases {
        for loss_scale in [1.0, 65_536.0, 0.25, 3.0] {
            for max_norm in [1.0, 1e-6, 1e30] {
                for norm in [Norm::L2, Norm::Max] {
                    let what = format!("{name}, scale {loss_scale}, {norm:?} {max_norm:e}");
                    let tensors = [gradient.clone()];
                    check(gpu, &what, &tensors, &clip(norm, max_norm), loss_scale);
                }
            }
        }
    }
}

/// test_clip_grad_norm of PyTorch.
fn check_pytorch_cases(gpu: &Gpu) {
    let tensors = [(1..=100).map(|i| i as f32).collect(), vec![1e-3; 10]];
    for (norm, expected) in [(Norm::L2, 581.678_605), (Norm::Max, 100.0)] {
        let state = check(gpu, "1..100", &tensors, &clip(norm, 2.0), 1.0);
        assert_close("norm", &[state.gradient_norm], &[expected], NORM);
        let scale = wide_state(&state).gradient_scale;
        let clipped: Vec<_> = wide(&tensors.concat()).iter().map(|g| g * scale).collect();
        let after = reference::gradient_scan(&clipped);
        let after = if norm == Norm::L2 { after.sum_of_squares.sqrt() } else { after.largest };
        assert!((after - 2.0).abs() <= 1e-6, "{norm:?}: clipped to {after}");
    }
    let small: Vec<f32> = values(4, 100).iter().map(|g| (g + 1.0) / 2e4).collect();
    for norm in [Norm::L2, Norm::Max] {
        for loss_scale in [1.0, 65_536.0] {
            let tensors = [small.clone(), vec![0.002; 10]];
            let state = check(gpu, "below", &tensors, &clip(norm, 2.0), loss_scale);
            assert_eq!((state.clip_coefficient, state.gradient_scale * loss_scale), (1.0, 1.0));
        }
    }
}

/// Lists of fours as in test_multi_tensor_l2norm of Transformer Engine: sums are exact.
fn check_constant_lists(gpu: &Gpu) {
    let lists = [
        (777, 555, 55, 1_082.663_38),
        (555, 65_537, 1, 4.0 * 66_092f64.sqrt()),
        (65_537, 555, 55, 7_626.333_33),
        (33_333, 555, 55, 5_460.910_02),
        (555 * 555, 7777 * 77, 1, 4.0 * 906_854f64.sqrt()),
    ];
    for (first, second, repeats, norm) in lists {
        let list = [vec![4.0; first], vec![4.0; second]];
        let tensors: Vec<_> = list.iter().cycle().take(2 * repeats).cloned().collect();
        let what = format!("({first}, {second}) x {repeats}");
        let state = check(gpu, &what, &tensors, &clip(Norm::L2, 1.0), 1.0);
        assert_close(&what, &[state.gradient_norm], &[norm], NORM);
        let scaled = check(gpu, &what, &tensors, &clip(Norm::L2, 1.0), 0.25);
        assert_eq!(scaled.gradient_norm, state.gradient_norm * 4.0, "{what}");
    }
}
