//! Optimizers behind a real scan and verdict, over many tensors, against f64 over 100 steps, and
//! what they must leave alone bit by bit.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::optimizer::{
    self as reference, AdafactorSettings, AdamSettings, MuonSettings, SgdSettings, Variance,
};
use evenkeel::reference::step::{self, Norm, State, VerdictSettings};
use evenkeel::step::{APPLY, SKIP, StepState, TensorSettings, TensorState};
use evenkeel::train::{self, MuonScale};

use super::optimizer_runs::{self as runs, Rule};
use super::step::{Flat, Judge, clip, flatten, fresh, plain, wide_state};
use super::support::{
    Tolerance, assert_close, gpu_with_hardware_kernels, pad, read, unpad, values, wide,
};

const STEPS: usize = 100;
const HUNDRED_STEPS: Tolerance = Tolerance {
    absolute: 4e-6,
    relative: 0.0,
    because: "100 steps of size 0.01, each rounding a weight near 1 once and a step of 12 \
              operations",
};
/// Empty tensors first, in the middle and last; one element; chunk borders.
const LENGTHS: [usize; 9] = [0, 1, 5, 2048, 0, 2049, 7, 300, 0];

rows! {
    adamw,
    adam,
    sgd,
    amsgrad,
    adamw_scaled,
    adam_atan2,
    lion,
    agreement,
    squared_ratio,
    moment_statistics,
    tensor_factors,
    weight_squares,
    adafactor_scan,
    adafactor_factors,
    adafactor_squares,
    adafactor,
    muon_momentum,
    muon_norm,
    muon_normalize,
    muon_polynomial,
    muon,
    adamw_packed,
}

#[derive(Clone, Copy)]
enum Method {
    Adamw(AdamSettings),
    Adam(AdamSettings),
    Sgd(SgdSettings),
}

const ADAM: AdamSettings = AdamSettings {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    learning_rate_factor: 1.0,
};
const SGD: SgdSettings = SgdSettings {
    momentum: 0.0,
    dampening: 0.0,
    nesterov: false,
    weight_decay: 0.0,
    learning_rate_factor: 1.0,
};

/// Parameters on the device beside the same in f64.
struct Training<'a> {
    gpu: &'a Gpu,
    method: Method,
    verdict: VerdictSettings,
    tensors: Vec<TensorSettings>,
    flat: Flat,
    judge: Judge,
    weight: wgpu::Buffer,
    m: wgpu::Buffer,
    v: wgpu::Buffer,
    state: State,
    weights: Vec<Vec<f64>>,
    moments: Vec<Vec<(f64, f64)>>,
}

impl<'a> Training<'a> {
    /// Moments start with what `stale` says, in every element that is not padding.
    fn new(
        gpu: &'a Gpu,
        method: Method,
        verdict: VerdictSettings,
        weights: &[Vec<f32>],
        stale: f32,
    ) -> Self {
        let flat = flatten(weights);
        let moments = flatten(&weights.iter().map(|w| vec![stale; w.len()]).collect::<Vec<_>>());
        let tensors: Vec<_> = (0..weights.len())
            .map(|i| TensorSettings {
                weight_decay: [1.0, 0.0, 0.5][i % 3],
                learning_rate: [1.0, 0.25][i % 2],
            })
            .collect();
        let judge = Judge::new(gpu, &flat, &verdict, fresh(1024.0));
        let states: Vec<_> = tensors.iter().copied().map(TensorState::from).collect();
        gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&states));
        Self {
            gpu,
            method,
            weight: gpu.upload("weight", &flat.elements),
            m: gpu.upload("m", &moments.elements),
            v: gpu.upload("v", &moments.elements),
            state: wide_state(&judge.state(gpu)),
            weights: weights.iter().map(|w| wide(w)).collect(),
            moments: weights.iter().map(|w| vec![(stale.into(), stale.into()); w.len()]).collect(),
            verdict,
            tensors,
            flat,
            judge,
        }
    }

    /// One step on both sides; `gradient` is flat, unscaled and padded.
    fn step(&mut self, gradient: &[f32]) {
        let scaled: Vec<_> = gradient.iter().map(|g| g * 1024.0).collect();
        self.judge.set_gradient(self.gpu, &scaled);
        self.judge.run(self.gpu);
        self.run_optimizer();
        let shares: Vec<Vec<f64>> = self
            .flat
            .table
            .iter()
            .map(|&(offset, n)| wide(&scaled[offset as usize..(offset + n) as usize]))
            .collect();
        let scan = step::gradient_scan(&shares.concat());
        self.state = step::verdict(&self.verdict, &scan, 1.0, &self.state);
        let parameters = self.weights.iter_mut().zip(&mut self.moments);
        for ((share, tensor), (weight, moments)) in shares.iter().zip(&self.tensors).zip(parameters)
        {
            self.method.evaluate(tensor, &self.state, share, weight, moments);
        }
    }

    fn run_optimizer(&self) {
        let chunk_count = self.judge.chunk_count;
        let bind = wgpu::Buffer::as_entire_buffer_binding;
        macro_rules! adam {
            ($Kernel:ident, $Params:ident, $settings:expr) => {
                self.gpu.run(&$Kernel {
                    params: $Params {
                        chunk_count,
                        beta1: $settings.beta1 as f32,
                        one_minus_beta1: (1.0 - $settings.beta1) as f32,
                        beta2: $settings.beta2 as f32,
                        one_minus_beta2: (1.0 - $settings.beta2) as f32,
                        eps: $settings.eps as f32,
                        weight_decay: $settings.weight_decay as f32,
                    },
                    state: bind(&self.judge.state),
                    chunks: bind(&self.judge.chunks),
                    tensors: bind(&self.judge.tensors),
                    gradient: bind(&self.judge.gradient),
                    weight: bind(&self.weight),
                    m: bind(&self.m),
                    v: bind(&self.v),
                })
            };
        }
        match self.method {
            Method::Adamw(settings) => adam!(Adamw, AdamwParams, settings),
            Method::Adam(settings) => adam!(Adam, AdamParams, settings),
            Method::Sgd(settings) => self.gpu.run(&Sgd {
                params: SgdParams {
                    chunk_count,
                    momentum: settings.momentum as f32,
                    dampening: settings.dampening as f32,
                    nesterov: settings.nesterov.into(),
                    weight_decay: settings.weight_decay as f32,
                },
                state: bind(&self.judge.state),
                chunks: bind(&self.judge.chunks),
                tensors: bind(&self.judge.tensors),
                gradient: bind(&self.judge.gradient),
                weight: bind(&self.weight),
                momentum_buffer: bind(&self.m),
            }),
        }
    }

    /// Weights and moments, as bits.
    fn bits(&self) -> Vec<Vec<u32>> {
        let buffers = [&self.weight, &self.m, &self.v];
        buffers.map(|b| read(self.gpu, b).iter().map(|x| x.to_bits()).collect()).to_vec()
    }

    #[track_caller]
    fn compare(&self, what: &str, tolerance: Tolerance) {
        let momentum_only = matches!(self.method, Method::Sgd(_));
        let (weight, m, v) =
            (read(self.gpu, &self.weight), read(self.gpu, &self.m), read(self.gpu, &self.v));
        for (i, &(offset, n)) in self.flat.table.iter().enumerate() {
            let share = offset as usize..(offset + n) as usize;
            let what = format!("{what}, tensor {i} of {n}");
            let first: Vec<_> = self.moments[i].iter().map(|moments| moments.0).collect();
            let second: Vec<_> = self.moments[i].iter().map(|moments| moments.1).collect();
            assert_close(
                &format!("{what}: w"),
                &weight[share.clone()],
                &self.weights[i],
                tolerance,
            );
            assert_close(&format!("{what}: m"), &m[share.clone()], &first, tolerance);
            if !momentum_only {
                assert_close(&format!("{what}: v"), &v[share.clone()], &second, tolerance);
            }
            for at in share.end..share.end.next_multiple_of(4) {
                let padding = [weight[at], m[at], v[at]];
                assert_eq!(padding.map(f32::to_bits), [0; 3], "{what}: padding");
            }
        }
    }
}

impl Method {
    fn evaluate(
        self,
        tensor: &TensorSettings,
        state: &State,
        gradient: &[f64],
        weight: &mut [f64],
        moments: &mut [(f64, f64)],
    ) {
        let decay = f64::from(tensor.weight_decay);
        let learning_rate_factor = tensor.learning_rate.into();
        match self {
            Self::Adamw(s) => {
                let weight_decay = s.weight_decay * decay;
                let settings = AdamSettings { weight_decay, learning_rate_factor, ..s };
                reference::adamw(&settings, state, gradient, weight, moments);
            }
            Self::Adam(s) => {
                let weight_decay = s.weight_decay * decay;
                let settings = AdamSettings { weight_decay, learning_rate_factor, ..s };
                reference::adam(&settings, state, gradient, weight, moments);
            }
            Self::Sgd(s) => {
                let weight_decay = s.weight_decay * decay;
                let settings = SgdSettings { weight_decay, learning_rate_factor, ..s };
                let mut buffer: Vec<_> = moments.iter().map(|m| m.0).collect();
                reference::sgd(&settings, state, gradient, weight, &mut buffer);
                moments.iter_mut().zip(buffer).for_each(|(m, b)| m.0 = b);
            }
        }
    }
}

fn tensors(seed: u64, lengths: &[usize]) -> Vec<Vec<f32>> {
    (seed..).zip(lengths).map(|(seed, &length)| values(seed, length)).collect()
}

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

fn adamw(gpu: &Gpu) {
    check_adam(gpu, Method::Adamw);
}

fn adam(gpu: &Gpu) {
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

fn sgd(gpu: &Gpu) {
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

const ADAMW: train::AdamW = train::AdamW {
    learning_rate: 0.01,
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.1,
    amsgrad: false,
    cautious: false,
    cautious_decay: false,
};

fn amsgrad(gpu: &Gpu) {
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

fn adamw_scaled(gpu: &Gpu) {
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

fn adam_atan2(gpu: &Gpu) {
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

fn lion(gpu: &Gpu) {
    let rule = train::Lion { learning_rate: 0.01, ..train::Lion::default() };
    runs::check(gpu, Rule::Lion(rule));
    runs::check_many_tensors(gpu, Rule::Lion(rule), 1000);
    for (cautious, cautious_decay) in [(true, false), (false, true), (true, true)] {
        let rule = train::Lion { cautious, cautious_decay, ..rule };
        runs::check_option(gpu, Rule::Lion(rule));
    }
}

fn bind(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// The state of a step that commits, with a loss scale of 4 and gradients clipped at 2.
fn applied() -> StepState {
    StepState {
        gradient_scale: 0.25,
        gradient_prescale: 1.0,
        clip_value: 2.0,
        learning_rate: 1.0,
        verdict: APPLY,
        ..StepState::default()
    }
}

/// The same in f64, at this step of the tensor.
fn applied_state(steps: u32, beta: f64) -> State {
    State {
        gradient_scale: 0.25,
        clip_value: 2.0,
        learning_rate: 1.0,
        applied: true,
        applied_total: steps,
        bias_correction1: 1.0 - beta.powi(steps as i32),
        bias_correction2: 1.0 - beta.powi(steps as i32),
        ..State::default()
    }
}

fn tensor_at(steps: u32, beta: f64) -> TensorState {
    let correction = (1.0 - beta.powi(steps as i32)) as f32;
    TensorState {
        learning_rate: 1.0,
        clip_coefficient: 1.0,
        bias_correction1: correction,
        bias_correction2: correction,
        steps,
        ..TensorState::default()
    }
}

/// What partial sums per chunk are made of, and what they should be.
struct Sums {
    flat: Flat,
    gradients: Vec<Vec<f32>>,
    kept: Vec<Vec<f32>>,
    steps: Vec<u32>,
    state: wgpu::Buffer,
    chunks: wgpu::Buffer,
    tensors: wgpu::Buffer,
    gradient: wgpu::Buffer,
    moment: wgpu::Buffer,
    partials: wgpu::Buffer,
}

const BETA: f64 = 0.75;
const PARTIAL: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 3e-6,
    because: "some roundings of each term and a tree of sums",
};

impl Sums {
    /// Tensors of all lengths at their first and later steps; `kept` maps what is drawn to what an
    /// optimizer could have kept.
    fn new(gpu: &Gpu, kept: impl Fn(f32) -> f32) -> Self {
        let gradients: Vec<Vec<f32>> = tensors(1, &LENGTHS);
        let kept: Vec<Vec<f32>> =
            tensors(50, &LENGTHS).iter().map(|t| t.iter().map(|&x| kept(x)).collect()).collect();
        let scaled: Vec<Vec<f32>> =
            gradients.iter().map(|g| g.iter().map(|g| g * 12.0).collect()).collect();
        let (flat, moment) = (flatten(&scaled), flatten(&kept));
        let steps: Vec<u32> = (0..LENGTHS.len() as u32).map(|i| 1 + i % 3).collect();
        let states: Vec<_> = steps.iter().map(|&steps| tensor_at(steps, BETA)).collect();
        Self {
            gradients: scaled,
            kept,
            steps,
            state: gpu.upload("state", &[applied()]),
            chunks: gpu.upload("chunks", &flat.chunks),
            tensors: gpu.upload("tensors", &states),
            gradient: gpu.upload("gradient", &flat.elements),
            moment: gpu.upload("moment", &moment.elements),
            partials: gpu.buffer("partials", 4 * flat.chunks.len() as u64),
            flat,
        }
    }

    fn chunk_count(&self) -> u32 {
        self.flat.chunks.len() as u32
    }

    /// Compares with what `sum` makes of the state, gradient and memory of each chunk.
    fn compare(
        &self,
        gpu: &Gpu,
        tolerance: Tolerance,
        sum: impl Fn(&State, &[f64], &[f64]) -> f64,
    ) {
        let partials = read(gpu, &self.partials);
        for (chunk, &partial) in self.flat.chunks.iter().zip(&partials) {
            let tensor = chunk.tensor as usize;
            let (first, _) = self.flat.table[tensor];
            let start = 4 * chunk.offset as usize - first as usize;
            let share = start..start + chunk.elements as usize;
            let steps = self.steps[tensor];
            let state = applied_state(steps, BETA);
            let kept = wide(&self.kept[tensor][share.clone()]);
            let kept = if steps == 1 { vec![0.0; kept.len()] } else { kept };
            let expected = sum(&state, &wide(&self.gradients[tensor][share]), &kept);
            assert_close(&format!("{chunk:?}"), &[partial], &[expected], tolerance);
        }
    }
}

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0, because: "a count" };

fn agreement(gpu: &Gpu) {
    let sums = Sums::new(gpu, |x| 3.0 * x);
    gpu.run(&Agreement {
        params: AgreementParams {
            chunk_count: sums.chunk_count(),
            beta1: 0.75,
            one_minus_beta1: 0.25,
        },
        state: bind(&sums.state),
        chunks: bind(&sums.chunks),
        tensors: bind(&sums.tensors),
        gradient: bind(&sums.gradient),
        m: bind(&sums.moment),
        partials: bind(&sums.partials),
    });
    sums.compare(gpu, EXACT, |state, gradient, m| reference::agreement(BETA, state, gradient, m));
}

fn squared_ratio(gpu: &Gpu) {
    for eps in [1e-6, 0.5, 0.0, 1e-30] {
        let sums = Sums::new(gpu, |x| x * x * x * x);
        gpu.run(&SquaredRatio {
            params: SquaredRatioParams {
                chunk_count: sums.chunk_count(),
                beta2: 0.75,
                one_minus_beta2: 0.25,
                eps: eps as f32,
            },
            state: bind(&sums.state),
            chunks: bind(&sums.chunks),
            tensors: bind(&sums.tensors),
            gradient: bind(&sums.gradient),
            v: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        sums.compare(gpu, PARTIAL, |state, gradient, v| {
            reference::squared_ratio(BETA, eps, state, gradient, v)
        });
    }
}

fn moment_statistics(gpu: &Gpu) {
    for eps in [1e-8f32, 0.3, 0.0, 1e30] {
        let sums = Sums::new(gpu, |x| if x < -0.5 { 0.0 } else { x * x });
        gpu.run(&MomentStatistics {
            params: MomentStatisticsParams { chunk_count: sums.chunk_count(), eps },
            chunks: bind(&sums.chunks),
            tensors: bind(&sums.tensors),
            v: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        for (chunk, &count) in sums.flat.chunks.iter().zip(&read(gpu, &sums.partials)) {
            let tensor = chunk.tensor as usize;
            let start = 4 * chunk.offset as usize - sums.flat.table[tensor].0 as usize;
            let v = wide(&sums.kept[tensor][start..start + chunk.elements as usize]);
            let correction = applied_state(sums.steps[tensor], BETA).bias_correction2;
            let expected = reference::moment_statistics(eps.into(), correction, &v);
            assert_close(&format!("{chunk:?}, eps {eps}"), &[count], &[expected], EXACT);
        }
    }
    check_eps_shares(gpu);
}

/// The shares an optimizer records: of elements, not of padding.
fn check_eps_shares(gpu: &Gpu) {
    let adamw = train::AdamW { eps: 0.1, betas: [0.0, 0.5], ..ADAMW };
    let stable = train::StableAdamW { eps: 0.1, betas: [0.0, 0.5], ..Default::default() };
    let muon = train::Muon { adamw, hidden: |_| false, ..Default::default() };
    let amsgrad = train::AdamW { amsgrad: true, ..adamw };
    for rule in [
        Rule::AdamW(adamw),
        Rule::AdamW(amsgrad),
        Rule::Adam(train::Adam { eps: 0.1, betas: [0.0, 0.5], ..Default::default() }),
        Rule::StableAdamW(stable),
        Rule::Muon(muon),
    ] {
        let mut run = runs::Run::vector(gpu, rule, plain(), &[1.0; 7]);
        run.step(&[vec![0.0, 0.05, -0.09, 0.11, -3.0, 1.0, 1.0]]);
        let shares = run.eps_shares().expect("an optimizer with eps");
        assert!((shares[0] - 3.0 / 7.0).abs() < 1e-6, "{rule:?}: {shares:?}");
    }
    for rule in [Rule::Lion(Default::default()), Rule::AdamAtan2(Default::default())] {
        assert!(runs::Run::vector(gpu, rule, plain(), &[1.0; 7]).eps_shares().is_none());
    }
}

fn tensor_factors(gpu: &Gpu) {
    let partials: Vec<f32> = values(1, 70_000).iter().map(|x| x * x).collect();
    let counts = [0u32, 1, 3, 63, 64, 65, 1023, 1024, 1025, 5000, 60_000];
    let (mut ranges, mut first) = (Vec::new(), 0);
    for (target_index, count) in (0..).zip(counts) {
        let elements = 3 * count + 1;
        ranges.push(TensorRange { first, count, elements, target_index: 10 - target_index });
        first += count;
    }
    let device = (gpu.upload("ranges", &ranges), gpu.upload("partials", &partials));
    for (rule, bound) in [
        (RULE_MEAN, 0.0),
        (RULE_ROOT_MEAN, 0.0),
        (RULE_INVERSE_AT_LEAST, 1e-3),
        (RULE_INVERSE_AT_LEAST, 0.2),
        (RULE_INVERSE_ROOT_ABOVE, 0.25),
        (RULE_INVERSE_ROOT_ABOVE, 1.0),
        (RULE_COMPLEMENT, 0.0),
    ] {
        let factors = gpu.upload("factors", &[f32::NAN; 12]);
        gpu.run(&TensorFactors {
            params: TensorFactorsParams { range_count: 11, rule, bound },
            ranges: bind(&device.0),
            partials: bind(&device.1),
            factors: bind(&factors),
        });
        let found = read(gpu, &factors);
        for range in &ranges {
            let share = &partials[range.first as usize..(range.first + range.count) as usize];
            let elements = range.elements as usize;
            let expected = reference::tensor_factors(rule, bound.into(), &wide(share), elements);
            let what = format!("rule {rule}, {range:?}");
            assert_close(&what, &[found[range.target_index as usize]], &[expected], PARTIAL);
        }
        assert!(found[11].is_nan());
    }
    check_many_ranges(gpu);
}

/// More tensors than a dimension of a grid takes.
fn check_many_ranges(gpu: &Gpu) {
    let count = 70_001;
    let partials = values(1, count as usize);
    let ranges: Vec<_> = (0..count)
        .map(|i| TensorRange { first: i, count: 1, elements: 1, target_index: count - 1 - i })
        .collect();
    let factors = gpu.buffer("factors", 4 * u64::from(count));
    gpu.run(&TensorFactors {
        params: TensorFactorsParams { range_count: count, rule: RULE_MEAN, bound: 0.0 },
        ranges: bind(&gpu.upload("ranges", &ranges)),
        partials: bind(&gpu.upload("partials", &partials)),
        factors: bind(&factors),
    });
    let found = read(gpu, &factors);
    assert!(found.iter().zip(partials.iter().rev()).all(|(found, partial)| found == partial));
}

fn weight_squares(gpu: &Gpu) {
    for scale in [1.0, 1e13, 1e30] {
        let sums = Sums::new(gpu, |x| x * scale);
        gpu.run(&WeightSquares {
            params: WeightSquaresParams { chunk_count: sums.chunk_count() },
            chunks: bind(&sums.chunks),
            weight: bind(&sums.moment),
            partials: bind(&sums.partials),
        });
        for (chunk, &sum) in sums.flat.chunks.iter().zip(&read(gpu, &sums.partials)) {
            let tensor = chunk.tensor as usize;
            let start = 4 * chunk.offset as usize - sums.flat.table[tensor].0 as usize;
            let weight = wide(&sums.kept[tensor][start..start + chunk.elements as usize]);
            let expected = reference::weight_squares(&weight);
            assert_close(&format!("{chunk:?}"), &[sum], &[expected], PARTIAL);
        }
    }
}

/// A matrix of 70 rows by 277 columns, 70 quads: two tiles each way.
const HEIGHT: usize = 70;
const WIDTH: usize = 277;

fn adafactor_scan(gpu: &Gpu) {
    let quads = WIDTH.div_ceil(4) as u32;
    let mut tiles = Vec::new();
    for (row, rows) in [(0, 64), (64, 6)] {
        for (col, width, row_sums) in [(0, 64, 0), (64, quads - 64, HEIGHT as u32)] {
            tiles.push(Tile {
                offset: row * quads + col,
                row_quads: quads,
                rows,
                quads: width,
                row_partials: row_sums + row,
                column_partials: 2 * HEIGHT as u32 + 4 * (row / 64 * quads + col),
                tensor: 0,
            });
        }
    }
    for scale in [1.0, 1e10, 1e35] {
        let gradient: Vec<_> = values(1, HEIGHT * WIDTH).iter().map(|x| x * scale).collect();
        let state = StepState { clip_value: 1e18, ..applied() };
        let partials = gpu.buffer("partials", 4 * (2 * HEIGHT as u64 + 8 * u64::from(quads)));
        gpu.run(&AdafactorScan {
            params: AdafactorScanParams { tile_count: 4 },
            state: bind(&gpu.upload("state", &[state])),
            tiles: bind(&gpu.upload("tiles", &tiles)),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(1, BETA)])),
            gradient: bind(&gpu.upload("gradient", &pad(&gradient, WIDTH))),
            partials: bind(&partials),
        });
        let found = read(gpu, &partials);
        let state = State { clip_value: 1e18, ..applied_state(1, BETA) };
        let (of_rows, of_cols) = reference::adafactor_scan(&state, &wide(&gradient), WIDTH);
        let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
        let (rows, cols) = found.split_at(2 * HEIGHT);
        assert_close("rows", &add(&rows[..HEIGHT], &rows[HEIGHT..]), &of_rows, PARTIAL);
        let cols = add(&cols[..4 * quads as usize], &cols[4 * quads as usize..]);
        assert_close("columns", &cols[..WIDTH], &of_cols, PARTIAL);
        assert!(cols[WIDTH..].iter().all(|&x| x == 0.0), "padding");
    }
}

fn adafactor_factors(gpu: &Gpu) {
    let count = 11;
    for (verdict, steps) in [(APPLY, 1), (APPLY, 2), (APPLY, 1000), (APPLY, 10_000_019), (SKIP, 7)]
    {
        // Two blocks of 8 and 3 quads, each the sum over 11 tiles.
        let sums: Vec<f32> = values(1, count * 44).iter().map(|x| x.abs()).collect();
        let old: Vec<f32> = values(2, 44).iter().map(|x| x.abs() / 9.0).collect();
        let block = FactorBlock {
            first: 0,
            stride: 11,
            count: count as u32,
            quads: 8,
            target_quad: 1,
            elements: 13,
            tensor: 0,
        };
        let blocks = [block, FactorBlock { first: 8, quads: 3, target_quad: 9, ..block }];
        let kept = [vec![0.5; 4], old.clone(), vec![0.5; 4]].concat();
        let variance = gpu.upload("variance", &kept);
        gpu.run(&AdafactorFactors {
            params: AdafactorFactorsParams { block_count: 2, decay_power: 0.8 },
            state: bind(&gpu.upload("state", &[StepState { verdict, ..applied() }])),
            blocks: bind(&gpu.upload("blocks", &blocks)),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(steps, BETA)])),
            partials: bind(&gpu.upload("sums", &sums)),
            variance: bind(&variance),
        });
        let found = read(gpu, &variance);
        let total = |i: usize| (0..count).map(|k| f64::from(sums[44 * k + i])).sum::<f64>();
        let totals: Vec<_> = (0..44).map(total).collect();
        let mut expected = if steps == 1 { vec![0.0; 44] } else { wide(&old) };
        let state = State { applied: verdict == APPLY, ..applied_state(steps, BETA) };
        reference::adafactor_factors(0.8, &state, &totals, 13, &mut expected);
        let tolerance = if verdict == APPLY { PARTIAL } else { EXACT };
        assert_close(&format!("step {steps}"), &found[4..48], &expected, tolerance);
        assert!(found[..4].iter().chain(&found[48..]).all(|&x| x == 0.5));
    }
}

fn adafactor_squares(gpu: &Gpu) {
    // A vector of 7 and a matrix, and what is kept of both behind one quad of something else.
    let gradients = [values(1, 7), values(2, HEIGHT * WIDTH)];
    let flat = [pad(&gradients[0], 7), pad(&gradients[1], WIDTH)].concat();
    let table = chunks([(0, 8), (8, (flat.len() - 8) as u64)]);
    let positive =
        |seed, count| -> Vec<f32> { values(seed, count).iter().map(|x| x * x + 1e-3).collect() };
    let (own, of_rows, of_cols) = (positive(3, 7), positive(4, HEIGHT), positive(5, WIDTH));
    let variance =
        [vec![0.0; 4], pad(&own, 7), pad(&of_rows, HEIGHT), pad(&of_cols, WIDTH)].concat();
    let quads = WIDTH.div_ceil(4) as u32;
    let shapes = [
        FactoredTensor { row_quads: 2, variance_cols: 1, ..FactoredTensor::default() },
        FactoredTensor {
            offset: 2,
            row_quads: quads,
            rows: HEIGHT as u32,
            variance_rows: 3,
            variance_cols: 3 + HEIGHT.div_ceil(4) as u32,
            mean: 2,
            ..FactoredTensor::default()
        },
    ];
    let mean = wide(&of_rows).iter().sum::<f64>() / HEIGHT as f64;
    let partials = gpu.buffer("partials", 4 * table.len() as u64);
    let steps = 5;
    gpu.run(&AdafactorSquares {
        params: AdafactorSquaresParams {
            chunk_count: table.len() as u32,
            decay_power: 0.8,
            eps1: 0.125,
        },
        state: bind(&gpu.upload("state", &[applied()])),
        chunks: bind(&gpu.upload("chunks", &table)),
        tensors: bind(&gpu.upload("tensors", &[tensor_at(steps, BETA); 2])),
        shapes: bind(&gpu.upload("shapes", &shapes)),
        gradient: bind(&gpu.upload("gradient", &flat)),
        variance: bind(&gpu.upload("variance", &variance)),
        factors: bind(&gpu.upload("factors", &[0.0, 0.0, mean as f32])),
        partials: bind(&partials),
    });
    let settings = AdafactorSettings {
        decay_power: 0.8,
        eps1: 0.125,
        eps2: 1e-3,
        clip_threshold: 1.0,
        weight_decay: 0.0,
        learning_rate_factor: 1.0,
    };
    let state = applied_state(steps, BETA);
    let mut own = wide(&own);
    let squares: Vec<_> = gradients[0].iter().map(|&g| (0.25 * f64::from(g)).powi(2)).collect();
    reference::adafactor_factors(0.8, &state, &squares, 1, &mut own);
    let factored = Variance::Factored {
        rows: HEIGHT,
        cols: WIDTH,
        of_rows: wide(&of_rows),
        of_cols: wide(&of_cols),
    };
    let expected = [(0, Variance::Full(own)), (1, factored)].map(|(i, variance)| {
        reference::adafactor_squares(&settings, &state, &wide(&gradients[i]), &variance)
    });
    let found = read(gpu, &partials);
    let matrix = found[1..table.len()].iter().sum();
    assert_close("sums of u²", &[found[0], matrix], &expected, PARTIAL);
}

fn adafactor(gpu: &Gpu) {
    let rule = train::Adafactor { weight_decay: 0.1, ..train::Adafactor::default() };
    runs::check(gpu, Rule::Adafactor(rule));
    // A relative step of 1, which 1 / sqrt(t) bounds from the second on.
    runs::check_constant_rate(gpu, Rule::Adafactor(rule), 1.0);
    runs::check_many_tensors(gpu, Rule::Adafactor(rule), 1000);
    let rule = train::Adafactor {
        beta2_decay: -0.5,
        eps: [1e-3, 0.3],
        clip_threshold: 0.5,
        weight_decay: 0.0,
        ..rule
    };
    runs::check_option(gpu, Rule::Adafactor(rule));
}

const MUON: train::Muon = train::Muon {
    learning_rate: 0.02,
    momentum: 0.95,
    nesterov: true,
    weight_decay: 0.1,
    scale: MuonScale::Original,
    iterations: 5,
    coefficients: [3.4445, -4.7750, 2.0315],
    eps: 1e-7,
    adamw: train::AdamW { learning_rate: 0.01, ..ADAMW },
    hidden: train::optimizers::is_hidden_matrix,
};

fn muon(gpu: &Gpu) {
    runs::check(gpu, Rule::Muon(MUON));
    runs::check_many_tensors(gpu, Rule::Muon(MUON), 300);
    let rule = train::Muon { scale: MuonScale::MatchRmsAdamW, ..MUON };
    runs::check_option(gpu, Rule::Muon(rule));
    // Products through workgroup memory.
    let hardware = gpu_with_hardware_kernels().expect("the same adapter");
    let rule = train::Muon { scale: MuonScale::Spectral, ..MUON };
    runs::check_option(&hardware, Rule::Muon(rule));
    check_orthogonal(gpu);
}

/// Singular values near 1, whatever they were: with enough iterations of coefficients that
/// converge, the update is the nearest orthogonal matrix.
fn check_orthogonal(gpu: &Gpu) {
    let rule = train::Muon {
        momentum: 0.0,
        weight_decay: 0.0,
        iterations: 40,
        coefficients: [1.5, -0.5, 0.0],
        ..MUON
    };
    for [rows, cols] in [[5usize, 9], [9, 5]] {
        let verdict = VerdictSettings { learning_rates: vec![1.0], ..plain() };
        let dims: [(&str, &[usize]); 1] = [("a.weight", &[rows, cols])];
        let zeros = vec![vec![0.0; rows * cols]];
        let mut run = runs::Run::new(gpu, Rule::Muon(rule), verdict, runs::specs(&dims), &zeros);
        run.step(&[values(3, rows * cols)]);
        let x: Vec<f64> = run.weights().iter().map(|&w| f64::from(w)).collect();
        let scale = MuonScale::Original.factor(rows, cols).powi(2);
        let (size, other) = (rows.min(cols), rows.max(cols));
        let at = |i: usize, k: usize| if rows <= cols { x[i * cols + k] } else { x[k * cols + i] };
        for (i, j) in (0..size).flat_map(|i| (0..size).map(move |j| (i, j))) {
            let product: f64 = (0..other).map(|k| at(i, k) * at(j, k)).sum();
            let expected = if i == j { scale } else { 0.0 };
            assert!((product - expected).abs() < 1e-5, "{rows} {cols}: {i} {j} {product}");
        }
    }
}

fn muon_momentum(gpu: &Gpu) {
    let rule = train::Muon { nesterov: false, ..MUON };
    runs::check_option(gpu, Rule::Muon(rule));
    // One matrix at its second step, packed behind another one.
    let (gradient, kept) = (values(1, 15), values(2, 15));
    let settings = MuonSettings {
        momentum: 0.75,
        nesterov: true,
        iterations: 5,
        coefficients: MUON.coefficients,
        eps: 0.0,
        scale: 1.0,
        weight_decay: 0.0,
        learning_rate_factor: 1.0,
    };
    for (verdict, nesterov) in [(APPLY, true), (APPLY, false), (SKIP, true)] {
        let momentum = gpu.upload("momentum", &[vec![7.0; 8], pad(&kept, 5)].concat());
        let x = gpu.upload("x", &[7.0f32; 24]);
        gpu.run(&MuonMomentum {
            params: MuonMomentumParams {
                chunk_count: 1,
                base: 2,
                momentum: 0.75,
                one_minus_momentum: 0.25,
                nesterov: nesterov.into(),
            },
            state: bind(&gpu.upload("state", &[StepState { verdict, ..applied() }])),
            chunks: bind(&gpu.upload("chunks", &chunks([(4, 24)]))),
            packed: bind(&gpu.upload("packed", &[2u32])),
            tensors: bind(&gpu.upload("tensors", &[tensor_at(2, BETA)])),
            gradient: bind(&gpu.upload("gradient", &[vec![9.0; 4], pad(&gradient, 5)].concat())),
            momentum_buffer: bind(&momentum),
            x: bind(&x),
        });
        let (found, found_x) = (read(gpu, &momentum), read(gpu, &x));
        assert!(found[..8].iter().all(|&b| b == 7.0));
        if verdict == SKIP {
            assert_eq!(found[8..], pad(&kept, 5));
            assert!(found_x.iter().all(|&x| x == 7.0));
            continue;
        }
        let mut expected = wide(&kept);
        let settings = MuonSettings { nesterov, ..settings };
        let state = applied_state(2, BETA);
        let expected_x =
            reference::muon_momentum(&settings, &state, &wide(&gradient), &mut expected);
        let tolerance = Tolerance { absolute: 2e-7, relative: 0.0, because: "three roundings" };
        assert_close("momentum", &unpad(&found[8..], 5), &expected, tolerance);
        assert_close("x", &unpad(&found_x, 5), &expected_x, tolerance);
    }
}

fn muon_norm(gpu: &Gpu) {
    let lengths = [1usize, 2047, 8192, 200_000];
    for (scale, eps) in
        [(1.0f32, 1e-7f32), (3e18, 0.0), (1e37, 1e-7), (1e-30, 0.0), (1e-30, 1e-7), (0.0, 1e-7)]
    {
        let matrices: Vec<Vec<f32>> = tensors(1, &lengths)
            .iter()
            .map(|x| x.iter().map(|x| (x + 0.01) * scale).collect())
            .collect();
        let flat = flatten(&matrices);
        let mut ranges = [TensorRange::default(); 4];
        for (i, chunk) in flat.chunks.iter().enumerate() {
            let range = &mut ranges[chunk.tensor as usize];
            range.first = if range.count == 0 { i as u32 } else { range.first };
            range.count += 1;
        }
        let chunk_count = flat.chunks.len() as u32;
        let partials = gpu.buffer("partials", 16 * u64::from(chunk_count));
        gpu.run(&GradientScan {
            params: GradientScanParams { chunk_count, overflow_bits: OVERFLOW_NONFINITE },
            chunks: bind(&gpu.upload("chunks", &flat.chunks)),
            gradient: bind(&gpu.upload("x", &flat.elements)),
            partials: bind(&partials),
        });
        let inverse = gpu.buffer("inverse", 32);
        gpu.run(&MuonNorm {
            params: MuonNormParams { matrix_count: 4, eps },
            ranges: bind(&gpu.upload("ranges", &ranges)),
            partials: bind(&partials),
            inverse: bind(&inverse),
        });
        let found = read(gpu, &inverse);
        for (matrix, pair) in matrices.iter().zip(found.chunks(2)) {
            let expected = reference::muon_norm(&wide(matrix), eps.into());
            let product = f64::from(pair[0]) * f64::from(pair[1]);
            let what = format!("{} elements of {scale:e}, eps {eps:e}", matrix.len());
            assert!(pair.iter().all(|x| x.is_normal()), "{what}: {pair:?}");
            assert_close(&what, &[(product / expected) as f32], &[1.0], PARTIAL);
        }
    }
}

fn muon_normalize(gpu: &Gpu) {
    let matrices = tensors(1, &[5, 3000]);
    let flat = flatten(&matrices);
    let x = gpu.upload("x", &flat.elements.iter().map(|x| x * 1e30).collect::<Vec<_>>());
    gpu.run(&MuonNormalize {
        params: MuonNormalizeParams { chunk_count: flat.chunks.len() as u32 },
        chunks: bind(&gpu.upload("chunks", &flat.chunks)),
        inverse: bind(&gpu.upload("inverse", &[1e-10f32, 1e-20, 1e-15, 2e-16])),
        x: bind(&x),
    });
    let found = read(gpu, &x);
    let tolerance = Tolerance { absolute: 0.0, relative: 4e-7, because: "three roundings" };
    for ((matrix, &(offset, n)), inverse) in matrices.iter().zip(&flat.table).zip([1.0, 2e-1]) {
        let expected = reference::muon_normalize(&wide(matrix), inverse);
        let share = &found[offset as usize..(offset + n) as usize];
        assert_close("normalised", share, &expected, tolerance);
    }
}

fn muon_polynomial(gpu: &Gpu) {
    for size in [1usize, 4, 6, 37] {
        let (gram, square) = (values(1, 3 * size * size), values(2, 3 * size * size));
        let y = gpu.upload("y", &pad(&square, size));
        let [a, b, c] = MUON.coefficients;
        gpu.run(&MuonPolynomial {
            params: MuonPolynomialParams {
                quads: (3 * size * size.div_ceil(4)) as u32,
                size: size as u32,
                a: a as f32,
                b: b as f32,
                c: c as f32,
            },
            gram: bind(&gpu.upload("gram", &pad(&gram, size))),
            y: bind(&y),
        });
        let expected =
            reference::muon_polynomial(&wide(&gram), &wide(&square), size, MUON.coefficients);
        let tolerance = Tolerance { absolute: 2e-6, relative: 0.0, because: "sums near 10" };
        assert_close("polynomial", &unpad(&read(gpu, &y), size), &expected, tolerance);
    }
}

fn adamw_packed(gpu: &Gpu) {
    let rule = Rule::Muon(train::Muon { hidden: |_| false, ..MUON });
    runs::check(gpu, rule);
    runs::check_many_tensors(gpu, rule, 1000);
}
