//! Rules beside AdamW, Adam and SGD.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::step::VerdictSettings;
use evenkeel::step::TensorState;
use evenkeel::train;

use super::frame::{flatten, plain};
use super::muon::MUON;
use super::runs::{self, Rule};
use super::support::{Tolerance, assert_close, read};
use super::{ADAMW, applied, bind};

pub fn amsgrad(gpu: &Gpu) {
    let rule = Rule::AdamW(train::AdamW { amsgrad: true, ..ADAMW });
    runs::check(gpu, rule);
    runs::check_many_tensors(gpu, rule, 1000);
    let betas = [0.8, 0.9];
    let rule = train::AdamW { amsgrad: true, cautious_decay: true, betas, ..ADAMW };
    runs::check_option(gpu, Rule::AdamW(rule));
    let rule = train::Adam { amsgrad: true, weight_decay: 0.1, ..train::Adam::default() };
    runs::check_option(gpu, Rule::Adam(rule));
    check_maximum(gpu);
}

/// After a large gradient the steps of amsgrad stay small, those of Adam do not.
fn check_maximum(gpu: &Gpu) {
    let verdict = VerdictSettings { learning_rates: vec![0.01], ..plain() };
    let moved = |amsgrad| {
        let adam = train::Adam { amsgrad, betas: [0.0, 0.5], ..train::Adam::default() };
        let mut run = runs::Run::vector(gpu, Rule::Adam(adam), verdict.clone(), &[0.0; 4]);
        for gradient in [vec![100.0; 4]].into_iter().chain(vec![vec![1.0; 4]; 40]) {
            run.step(&[gradient]);
        }
        let before = run.weights()[0];
        run.step(&[vec![1.0; 4]]);
        before - run.weights()[0]
    };
    assert!((moved(false) - 0.01).abs() < 1e-5 && moved(true) < 2e-4);
}

pub fn adamw_scaled(gpu: &Gpu) {
    let stable = train::StableAdamW { weight_decay: 0.1, ..train::StableAdamW::default() };
    runs::check(gpu, Rule::StableAdamW(stable));
    let stable = train::StableAdamW { cautious_decay: true, ..stable };
    runs::check_option(gpu, Rule::StableAdamW(stable));
    let cautious = Rule::AdamW(train::AdamW { cautious: true, ..ADAMW });
    runs::check(gpu, cautious);
    runs::check_many_tensors(gpu, cautious, 1000);
    let both = train::AdamW { cautious: true, cautious_decay: true, ..ADAMW };
    runs::check_option(gpu, Rule::AdamW(both));
    runs::check_option(gpu, Rule::AdamW(train::AdamW { cautious_decay: true, ..ADAMW }));
}

pub fn adam_atan2(gpu: &Gpu) {
    let rule = train::AdamAtan2 { weight_decay: 0.1, ..train::AdamAtan2::default() };
    runs::check(gpu, Rule::AdamAtan2(rule));
    runs::check_many_tensors(gpu, Rule::AdamAtan2(rule), 1000);
    runs::check_option(gpu, Rule::AdamAtan2(train::AdamAtan2 { cautious_decay: true, ..rule }));
    check_angles(gpu);
}

/// The angle of quotients of all sizes, from moments that stand still.
fn check_angles(gpu: &Gpu) {
    let exponents =
        (-120..=120).flat_map(|e| [1.0f32, 1.37, 1.93].map(|x| x * (e as f32 / 4.0).exp2()));
    let ratios: Vec<f32> = exponents.flat_map(|x| [x, -x]).chain([0.0, -0.0]).collect();
    for root in [1.0f32, 1e-12, 1e12] {
        let m: Vec<f32> = ratios.iter().map(|ratio| ratio * root).collect();
        let v = vec![root * root; m.len()];
        let flat = flatten(std::slice::from_ref(&m));
        let tensor = TensorState {
            learning_rate: 1.0,
            clip_coefficient: 1.0,
            bias_correction1: 1.0,
            bias_correction2: 1.0,
            steps: 2,
            ..TensorState::default()
        };
        let weight = gpu.buffer("weight", 4 * flat.elements.len() as u64);
        gpu.run(&AdamAtan2 {
            params: AdamAtan2Params {
                chunk_count: flat.chunks.len() as u32,
                beta1: 1.0,
                one_minus_beta1: 0.0,
                beta2: 1.0,
                one_minus_beta2: 0.0,
                a: 1.0,
                b: 1.0,
                weight_decay: 0.0,
                cautious_decay: 0,
            },
            state: bind(&gpu.upload("state", &[applied()])),
            chunks: bind(&gpu.upload("chunks", &flat.chunks)),
            tensors: bind(&gpu.upload("tensors", &[tensor])),
            gradient: bind(&gpu.buffer("gradient", weight.size())),
            weight: bind(&weight),
            m: bind(&gpu.upload("m", &flat.elements)),
            v: bind(&gpu.upload("v", &flatten(std::slice::from_ref(&v)).elements)),
        });
        let angles = m.iter().zip(&v).map(|(&m, &v)| -f64::from(m).atan2(f64::from(v).sqrt()));
        let tolerance = Tolerance {
            absolute: 0.0,
            relative: 6e-7,
            because: "a root of 2 ULP, two quotients of 2.5 ULP each, a polynomial",
        };
        let found = &read(gpu, &weight)[..m.len()];
        assert_close("angle", found, &angles.collect::<Vec<_>>(), tolerance);
    }
}

pub fn lion(gpu: &Gpu) {
    let rule = train::Lion { learning_rate: 0.01, ..train::Lion::default() };
    runs::check(gpu, Rule::Lion(rule));
    runs::check_many_tensors(gpu, Rule::Lion(rule), 1000);
    for (cautious, cautious_decay) in [(true, false), (false, true), (true, true)] {
        let rule = train::Lion { cautious, cautious_decay, ..rule };
        runs::check_option(gpu, Rule::Lion(rule));
    }
}

pub fn adamw_packed(gpu: &Gpu) {
    let rule = Rule::Muon(train::Muon { hidden: |_| false, ..MUON });
    runs::check(gpu, rule);
    runs::check_many_tensors(gpu, rule, 1000);
}
