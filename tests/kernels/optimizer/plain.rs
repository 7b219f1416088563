//! AdamW, Adam and SGD: a hundred steps, skipped ones, and gradients at the ends of f32.

use evenkeel::Gpu;
use evenkeel::reference::optimizer::{AdamSettings, SgdSettings};
use evenkeel::reference::step::{Norm, VerdictSettings};

use super::direct::{ADAM, Method, SGD, Training};
use super::frame::{clip, flatten, plain};
use super::support::{Tolerance, assert_close, read, values};
use super::{LENGTHS, tensors};

const STEPS: usize = 100;
const HUNDRED_STEPS: Tolerance = Tolerance {
    absolute: 4e-6,
    relative: 0.0,
    because: "100 steps of size 0.01, each rounding a weight near 1 once and a step of 12 \
              operations",
};

fn flat(seed: u64, lengths: &[usize]) -> Vec<f32> {
    flatten(&tensors(seed, lengths)).elements
}

fn rates() -> Vec<f64> {
    (0..STEPS as u32).map(|t| f64::from(0.01 * (1.0 - t as f32 / 200.0))).collect()
}

/// 100 steps against f64: clipped by either norm or by value or not at all.
fn check_hundred_steps(gpu: &Gpu, method: Method, stale: f32) {
    for verdict in [
        plain(),
        clip(Norm::L2, 20.0),
        clip(Norm::Max, 0.5),
        VerdictSettings { clip_value: 0.25, ..clip(Norm::L2, 40.0) },
    ] {
        let what = format!("{:?} {}", verdict.norm, verdict.clip_value);
        let verdict = VerdictSettings { learning_rates: rates(), ..verdict };
        let mut training = Training::new(gpu, method, verdict, &tensors(1, &LENGTHS), stale);
        for t in 0..STEPS {
            training.step(&flat(100 + 10 * t as u64, &LENGTHS));
            if t == 0 || t == 9 {
                training.compare(&format!("{what}, step {t}"), HUNDRED_STEPS);
            }
        }
        training.compare(&what, HUNDRED_STEPS);
    }
}

/// A bad step changes nothing, and the good step after it is the good step alone.
fn check_skip(gpu: &Gpu, method: Method) {
    let lengths = [5, 2049, 300];
    let new = || Training::new(gpu, method, clip(Norm::L2, 1.0), &tensors(1, &lengths), 0.0);
    let (mut skipping, mut control) = (new(), new());
    for t in 0..3u64 {
        let before = skipping.bits();
        for bits in [0x7fc0_0000u32, 0x7f80_0001, 0x7f80_0000, 0xff80_0000] {
            let mut bad = flat(50 + 10 * t, &lengths);
            bad[8 + 100 * t as usize] = f32::from_bits(bits);
            skipping.step(&bad);
            assert!(skipping.bits() == before, "step {t}, {bits:#x}");
        }
        let good = flat(20 + 10 * t, &lengths);
        skipping.step(&good);
        control.step(&good);
        assert!(skipping.bits() != before, "step {t} changed nothing");
        assert!(skipping.bits() == control.bits(), "step {t}");
        let (a, b) = (skipping.judge.state(gpu), control.judge.state(gpu));
        assert_eq!((a.applied_total, a.skipped_total), (b.applied_total, 4 * (t as u32 + 1)));
        assert_eq!(skipping.judge.tensors(gpu), control.judge.tensors(gpu));
    }
}

/// More chunks than a dimension of a grid takes, and many short tensors of every length.
fn check_many_tensors(gpu: &Gpu, method: Method) {
    for lengths in [vec![1; 70_001], (0..2000).map(|i| i % 10).collect()] {
        let verdict = VerdictSettings { learning_rates: vec![0.01], ..clip(Norm::L2, 1.0) };
        let weights = if lengths[0] == 1 {
            values(1, lengths.len()).into_iter().map(|w| vec![w]).collect()
        } else {
            tensors(1, &lengths)
        };
        let mut training = Training::new(gpu, method, verdict, &weights, 0.0);
        let gradient: Vec<_> = training.flat.elements.iter().map(|w| w * 3.0).collect();
        training.step(&gradient);
        training.compare(&format!("{} tensors", lengths.len()), HUNDRED_STEPS);
    }
}

/// Five tensors of ones and a gradient with one Inf: all stays one.
fn check_ones(gpu: &Gpu, method: Method) {
    let ones = vec![vec![1.0; 20]; 5];
    let mut training = Training::new(gpu, method, plain(), &ones, 1.0);
    let mut gradient = vec![1.0; 100];
    gradient[99] = f32::INFINITY;
    training.step(&gradient);
    assert_eq!(training.bits(), vec![vec![1.0f32.to_bits(); 100]; 3]);
}

/// Gradients of zero with moments of zero do nothing: no NaN from 0 / 0, even where eps is 0.
fn check_zeros(gpu: &Gpu, method: Method) {
    let mut training = Training::new(gpu, method, clip(Norm::L2, 1.0), &[values(1, 10)], 0.0);
    let before = training.bits();
    training.step(&[0.0; 12]);
    assert_eq!(training.bits(), before);
}

/// Without a clip, a gradient whose square overflows must not freeze its parameter.
fn check_huge_gradient(gpu: &Gpu, method: Method) {
    let mut training = Training::new(gpu, method, plain(), &[vec![0.5; 8]], 0.0);
    training.step(&[1e30, -1e30, 1e18, 1.0, 0.0, -1e19, 3e35, -3e35]);
    let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6, because: "a dozen roundings" };
    training.compare("huge", tolerance);
    assert!(read(gpu, &training.v).iter().all(|v| v.is_finite()));
}

/// Decay in the gradient is bounded as well: its square must not overflow either.
fn check_huge_weight(gpu: &Gpu, method: Method) {
    let weights = [vec![1e25, -1e25, 1e37, 1.0]];
    let mut training = Training::new(gpu, method, plain(), &weights, 0.0);
    training.step(&[1.0, 1.0, -1.0, 1.0]);
    let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6, because: "a dozen roundings" };
    training.compare("huge weight", tolerance);
    assert!(read(gpu, &training.v).iter().all(|v| v.is_finite()));
}

/// Clipping scales below f32's normal range still give the right step.
fn check_extreme_clip(gpu: &Gpu, method: Method) {
    let lengths = [5000];
    let verdict = clip(Norm::L2, 1.0);
    let mut training = Training::new(gpu, method, verdict, &[vec![0.0; lengths[0]]], 0.0);
    let signs = values(1, lengths[0]);
    let largest = f32::MAX / 1024.0;
    let gradient: Vec<_> = signs.iter().map(|s| largest.copysign(*s)).collect();
    training.step(&gradient);
    let tolerance = Tolerance { absolute: 0.0, relative: 3e-6, because: "the norm's roundings" };
    training.compare("extreme clip", tolerance);
    let moved = training.weights[0].iter().filter(|w| w.abs() > 0.01).count();
    assert_eq!(moved, lengths[0]);
}

pub fn adamw(gpu: &Gpu) {
    check_adam(gpu, Method::Adamw);
}

pub fn adam(gpu: &Gpu) {
    check_adam(gpu, Method::Adam);
}

fn check_adam(gpu: &Gpu, method: fn(AdamSettings) -> Method) {
    let undecayed = AdamSettings { weight_decay: 0.0, ..ADAM };
    check_hundred_steps(gpu, method(ADAM), 0.0);
    check_hundred_steps(gpu, method(AdamSettings { eps: 1e-3, beta2: 0.95, ..undecayed }), 0.0);
    check_skip(gpu, method(ADAM));
    check_many_tensors(gpu, method(ADAM));
    check_ones(gpu, method(ADAM));
    check_zeros(gpu, method(undecayed));
    check_zeros(gpu, method(AdamSettings { eps: 0.0, ..undecayed }));
    check_huge_gradient(gpu, method(ADAM));
    check_huge_weight(gpu, method(ADAM));
    check_extreme_clip(gpu, method(undecayed));
}

pub fn sgd(gpu: &Gpu) {
    let heavy = SgdSettings { momentum: 0.9, weight_decay: 0.1, ..SGD };
    // The first applied step does not read the buffer; without momentum no step does.
    check_hundred_steps(gpu, Method::Sgd(heavy), f32::MAX);
    check_hundred_steps(gpu, Method::Sgd(SgdSettings { dampening: 0.1, ..heavy }), 0.0);
    check_hundred_steps(gpu, Method::Sgd(SgdSettings { nesterov: true, ..heavy }), 0.0);
    for method in [SGD, heavy].map(Method::Sgd) {
        check_skip(gpu, method);
        check_many_tensors(gpu, method);
        check_ones(gpu, method);
        check_extreme_clip(gpu, method);
    }
    check_zeros(gpu, Method::Sgd(SGD));
    check_without_momentum(gpu);
    check_clip_by_value(gpu);
}

fn check_without_momentum(gpu: &Gpu) {
    let method = Method::Sgd(SgdSettings { weight_decay: 0.1, ..SGD });
    let verdict = VerdictSettings { learning_rates: rates(), ..clip(Norm::L2, 20.0) };
    let mut training = Training::new(gpu, method, verdict, &tensors(1, &LENGTHS), 0.0);
    training.m = gpu.upload("garbage", &[f32::NAN; 4]);
    for t in 0..STEPS {
        training.step(&flat(100 + 10 * t as u64, &LENGTHS));
    }
    let garbage = read(gpu, &training.m);
    assert_eq!(garbage.len(), 4);
    assert!(garbage.iter().all(|x| x.to_bits() == f32::NAN.to_bits()));
    let weight = read(gpu, &training.weight);
    for (&(offset, n), expected) in training.flat.table.iter().zip(&training.weights) {
        let share = &weight[offset as usize..(offset + n) as usize];
        assert_close("without momentum", share, expected, HUNDRED_STEPS);
    }
}

/// clip_grad_value_ of PyTorch: 2.5 on arange(-50, 50) / 5, seen through a step of 1.
fn check_clip_by_value(gpu: &Gpu) {
    let verdict = VerdictSettings { clip_value: 2.5, ..plain() };
    let mut training = Training::new(gpu, Method::Sgd(SGD), verdict, &[vec![0.0; 100]], 0.0);
    let gradient: Vec<_> = (-50..50).map(|i| i as f32 / 5.0).collect();
    training.step(&gradient);
    for (w, g) in read(gpu, &training.weight).iter().zip(gradient) {
        assert_eq!(*w, -g.clamp(-2.5, 2.5));
    }
}
