//! Whole optimizers as a trainer records them, behind a real scan and verdict, beside the same rule
//! in f64: tensors of every kind, steps that are skipped, memory that is emptied, and gradients at
//! the ends of f32.

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::graph::{ParameterSpec, Shape};
use evenkeel::kernels::chunks;
use evenkeel::nn::Init;
use evenkeel::plan::{Recorder, StepBuffers};
use evenkeel::reference::optimizer as reference;
use evenkeel::reference::optimizer::{
    AdafactorSettings, AdamAtan2Settings, AdamSettings, AmsgradSettings, Factor, LionSettings,
    MuonSettings, Variance,
};
use evenkeel::reference::step::{self, Norm, State, VerdictSettings};
use evenkeel::step::{StepInput, TensorSettings, TensorState};
use evenkeel::train::optimizers::{Segment, SegmentTensor};
use evenkeel::train::{Adafactor, Adam, AdamAtan2, AdamW, Lion, Muon, Optimizer, StableAdamW};

use super::step::{Flat, Judge, clip, fresh, plain, wide_state};
use super::support::{Tolerance, assert_close, read, unpad, values, wide};

/// Names and dimensions: empty tensors first and last, matrices of one shape apart, rows with
/// padding, more than one tile and more than one chunk.
const TENSORS: [(&str, &[usize]); 12] = [
    ("empty", &[0]),
    ("bias", &[5]),
    ("blocks.0.weight", &[12, 20]),
    ("long", &[2049]),
    ("blocks.1.weight", &[12, 20]),
    ("token_embedding.weight", &[70, 9]),
    ("blocks.2.weight", &[21, 13]),
    ("stack", &[2, 7, 10]),
    ("wide.weight", &[3, 300]),
    ("one", &[1]),
    ("column.weight", &[6, 1]),
    ("none.weight", &[0, 4]),
];

/// A rule to compare with.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    AdamW(AdamW),
    Adam(Adam),
    StableAdamW(StableAdamW),
    AdamAtan2(AdamAtan2),
    Lion(Lion),
    Adafactor(Adafactor),
    Muon(Muon),
}

/// What a rule keeps of a tensor, dense.
#[derive(Clone, Debug)]
struct Memory {
    moments: [Vec<f64>; 3],
    variance: Variance,
}

impl Memory {
    fn new(shape: &Shape) -> Self {
        let (count, cols) = (shape.count(), shape.cols());
        let variance = if shape.dims.len() > 1 && count > 0 {
            let rows = shape.dims[shape.dims.len() - 2];
            let of_cols = vec![0.0; shape.rows() / rows * cols];
            Variance::Factored { rows, cols, of_rows: vec![0.0; shape.rows()], of_cols }
        } else {
            Variance::Full(vec![0.0; count])
        };
        Self { moments: std::array::from_fn(|_| vec![0.0; count]), variance }
    }
}

impl Rule {
    fn optimizer(&self) -> &dyn Optimizer {
        match self {
            Self::AdamW(optimizer) => optimizer,
            Self::Adam(optimizer) => optimizer,
            Self::StableAdamW(optimizer) => optimizer,
            Self::AdamAtan2(optimizer) => optimizer,
            Self::Lion(optimizer) => optimizer,
            Self::Adafactor(optimizer) => optimizer,
            Self::Muon(optimizer) => optimizer,
        }
    }

    /// The same without weight decay.
    fn undecayed(mut self) -> Self {
        match &mut self {
            Self::AdamW(AdamW { weight_decay, .. })
            | Self::Adam(Adam { weight_decay, .. })
            | Self::StableAdamW(StableAdamW { weight_decay, .. })
            | Self::AdamAtan2(AdamAtan2 { weight_decay, .. })
            | Self::Lion(Lion { weight_decay, .. })
            | Self::Adafactor(Adafactor { weight_decay, .. }) => *weight_decay = 0.0,
            Self::Muon(muon) => {
                muon.weight_decay = 0.0;
                muon.adamw.weight_decay = 0.0;
            }
        }
        self
    }

    fn evaluate(
        &self,
        spec: &ParameterSpec,
        tensor: &TensorSettings,
        state: &State,
        g: &[f64],
        w: &mut [f64],
        memory: &mut Memory,
    ) {
        let (decay, factor) = (f64::from(tensor.weight_decay), f64::from(tensor.learning_rate));
        let [m, v, v_max] = &mut memory.moments;
        let mut pairs: Vec<_> = m.iter().copied().zip(v.iter().copied()).collect();
        match self {
            Self::AdamW(s) => {
                let adam = adam_settings(s.betas, s.eps, s.weight_decay * decay, factor);
                if s.amsgrad {
                    let cautious_decay = s.cautious_decay;
                    let settings = AmsgradSettings { adam, l2_decay: 0.0, cautious_decay };
                    reference::amsgrad(&settings, state, g, w, &mut pairs, v_max);
                } else {
                    let agreeing = s.cautious.then(|| agreement(s.betas[0], state, g, m));
                    let factor = agreeing.map_or(Factor::None, Factor::Agreeing);
                    let cautious = s.cautious_decay;
                    reference::adamw_scaled(&adam, factor, cautious, state, g, w, &mut pairs);
                }
            }
            Self::Adam(s) if s.amsgrad => {
                let adam = adam_settings(s.betas, s.eps, 0.0, factor);
                let l2_decay = s.weight_decay * decay;
                let settings = AmsgradSettings { adam, l2_decay, cautious_decay: false };
                reference::amsgrad(&settings, state, g, w, &mut pairs, v_max);
            }
            Self::Adam(s) => {
                let adam = adam_settings(s.betas, s.eps, s.weight_decay * decay, factor);
                reference::adam(&adam, state, g, w, &mut pairs);
            }
            Self::StableAdamW(s) => {
                let adam = adam_settings(s.betas, s.eps, s.weight_decay * decay, factor);
                let sum = reference::squared_ratio(s.betas[1], s.eps, state, g, v);
                let slower = reference::tensor_factors(3, 1.0, &[sum], g.len());
                let slower = Factor::LearningRate(slower);
                let cautious = s.cautious_decay;
                reference::adamw_scaled(&adam, slower, cautious, state, g, w, &mut pairs);
            }
            Self::AdamAtan2(s) => {
                let settings = AdamAtan2Settings {
                    beta1: s.betas[0],
                    beta2: s.betas[1],
                    a: s.a,
                    b: s.b,
                    weight_decay: s.weight_decay * decay,
                    cautious_decay: s.cautious_decay,
                    learning_rate_factor: factor,
                };
                reference::adam_atan2(&settings, state, g, w, &mut pairs);
            }
            Self::Lion(s) => {
                let settings = LionSettings {
                    beta1: s.betas[0],
                    beta2: s.betas[1],
                    weight_decay: s.weight_decay * decay,
                    cautious_decay: s.cautious_decay,
                    learning_rate_factor: factor,
                };
                let agreeing = s.cautious.then(|| agreement(s.betas[0], state, g, m));
                reference::lion(&settings, agreeing, state, g, w, m);
                return;
            }
            Self::Adafactor(s) => {
                let settings = AdafactorSettings {
                    decay_power: -s.beta2_decay,
                    eps1: s.eps[0],
                    eps2: s.eps[1],
                    clip_threshold: s.clip_threshold,
                    weight_decay: s.weight_decay * decay,
                    learning_rate_factor: factor,
                };
                reference::adafactor(&settings, state, g, w, &mut memory.variance);
                return;
            }
            Self::Muon(s) if is_matrix(s, spec) => {
                let [rows, cols] = spec.shape.dims[..] else { panic!("a matrix") };
                let settings = MuonSettings {
                    momentum: s.momentum,
                    nesterov: s.nesterov,
                    iterations: s.iterations,
                    coefficients: s.coefficients,
                    eps: s.eps,
                    scale: s.scale.factor(rows, cols),
                    weight_decay: s.weight_decay * decay,
                    learning_rate_factor: factor,
                };
                reference::muon(&settings, state, g, w, m, [rows, cols]);
                return;
            }
            Self::Muon(s) => {
                let decay = s.adamw.weight_decay * decay;
                let adam = adam_settings(s.adamw.betas, s.adamw.eps, decay, factor);
                let ratio = s.adamw.learning_rate / s.learning_rate;
                reference::adamw_packed(&adam, ratio, state, g, w, &mut pairs);
            }
        }
        (*m, *v) = pairs.into_iter().unzip();
    }

    /// What the device should keep, in its layout, one vector per buffer.
    fn kept(&self, specs: &[ParameterSpec], memories: &[Memory]) -> Vec<Vec<f64>> {
        let all: Vec<_> = specs.iter().zip(memories).collect();
        let moment = |index: usize, of: &[(&ParameterSpec, &Memory)]| -> Vec<f64> {
            let each = of.iter().map(|(spec, memory)| pad(&spec.shape, &memory.moments[index]));
            each.collect::<Vec<_>>().concat()
        };
        match self {
            Self::Adafactor(_) => {
                let each = all.iter().map(|(_, memory)| variance(&memory.variance));
                vec![each.collect::<Vec<_>>().concat()]
            }
            Self::Muon(muon) => {
                let (mut matrices, others): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|(spec, _)| is_matrix(muon, spec));
                let shapes: Vec<_> = matrices.iter().map(|(s, _)| s.shape.dims.clone()).collect();
                let first = |dims: &Vec<usize>| shapes.iter().position(|other| other == dims);
                matrices.sort_by_key(|(spec, _)| first(&spec.shape.dims));
                vec![moment(0, &matrices), moment(0, &others), moment(1, &others)]
            }
            _ => {
                let names = self.optimizer().moments();
                (0..names.len()).map(|index| moment(index, &all)).collect()
            }
        }
    }
}

fn adam_settings(betas: [f64; 2], eps: f64, decay: f64, factor: f64) -> AdamSettings {
    let [beta1, beta2] = betas;
    AdamSettings { beta1, beta2, eps, weight_decay: decay, learning_rate_factor: factor }
}

fn is_matrix(muon: &Muon, spec: &ParameterSpec) -> bool {
    spec.shape.dims.len() == 2 && spec.shape.count() > 0 && (muon.hidden)(spec)
}

fn agreement(beta1: f64, state: &State, gradient: &[f64], m: &[f64]) -> f64 {
    let count = reference::agreement(beta1, state, gradient, m);
    reference::tensor_factors(2, 1e-3, &[count], gradient.len())
}

fn pad(shape: &Shape, dense: &[f64]) -> Vec<f64> {
    let mut padded = Vec::new();
    for row in dense.chunks(shape.cols().max(1)) {
        padded.extend_from_slice(row);
        padded.resize(padded.len().next_multiple_of(4), 0.0);
    }
    padded
}

fn variance(variance: &Variance) -> Vec<f64> {
    let quads = |values: &[f64]| {
        let mut values = values.to_vec();
        values.resize(values.len().next_multiple_of(4), 0.0);
        values
    };
    match variance {
        Variance::Full(all) => quads(all),
        Variance::Factored { cols, of_rows, of_cols, .. } => {
            let cols = of_cols.chunks(*cols).flat_map(quads);
            quads(of_rows).into_iter().chain(cols).collect()
        }
    }
}

pub fn specs(tensors: &[(&str, &[usize])]) -> Vec<ParameterSpec> {
    let spec = |(name, dims): &(&str, &[usize])| {
        let shape = Shape { dims: dims.to_vec(), ..Shape::real([1]) };
        ParameterSpec {
            name: (*name).to_owned(),
            shape,
            init: Init::Constant(0.0),
            stream: 0,
            requires_grad: true,
        }
    };
    tensors.iter().map(spec).collect()
}

fn layout<'s>(specs: &'s [ParameterSpec], offsets: &[usize]) -> Vec<SegmentTensor<'s>> {
    let mut first_chunk = 0;
    let tensors = (0..).zip(specs.iter().zip(offsets)).map(|(index, (spec, &offset))| {
        let tensor = SegmentTensor::new(spec, index, offset as u32 / 4, first_chunk);
        first_chunk += tensor.chunk_count;
        tensor
    });
    tensors.collect()
}

/// Drawn values for each tensor, dense.
fn drawn(specs: &[ParameterSpec], seed: u64) -> Vec<Vec<f32>> {
    (seed..).zip(specs).map(|(seed, spec)| values(seed, spec.shape.count())).collect()
}

/// An optimizer on the device beside its rule in f64.
pub struct Run<'a> {
    gpu: &'a Gpu,
    rule: Rule,
    specs: Vec<ParameterSpec>,
    settings: Vec<TensorSettings>,
    verdict: VerdictSettings,
    offsets: Vec<usize>,
    judge: Judge,
    weight: wgpu::Buffer,
    moments: Vec<wgpu::Buffer>,
    update: Vec<Dispatch>,
    state: State,
    steps: Vec<u32>,
    weights: Vec<Vec<f64>>,
    memories: Vec<Memory>,
}

impl<'a> Run<'a> {
    pub fn new(
        gpu: &'a Gpu,
        rule: Rule,
        verdict: VerdictSettings,
        specs: Vec<ParameterSpec>,
        weights: &[Vec<f32>],
    ) -> Self {
        let [beta1, beta2] = rule.optimizer().betas();
        let verdict = VerdictSettings { beta1, beta2, ..verdict };
        let (mut elements, mut offsets, mut table) = (Vec::new(), Vec::new(), Vec::new());
        for (spec, weight) in specs.iter().zip(weights) {
            let offset = elements.len();
            if !weight.is_empty() {
                elements.extend(spec.shape.pad(weight));
            }
            offsets.push(offset);
            table.push((offset as u64, (elements.len() - offset) as u64));
        }
        let flat = Flat { chunks: chunks(table.iter().copied()), elements, table };
        let judge = Judge::new(gpu, &flat, &verdict, fresh(1024.0));
        let settings: Vec<_> = (0..specs.len())
            .map(|i| TensorSettings {
                weight_decay: [1.0, 0.0, 0.5][i % 3],
                learning_rate: [1.0, 0.25][i % 2],
            })
            .collect();
        let states: Vec<_> = settings.iter().copied().map(TensorState::from).collect();
        gpu.write(&judge.tensors, 0, bytemuck::cast_slice(&states));
        let weight = gpu.upload("weight", &flat.elements);
        rule.optimizer().validate().expect("valid settings");
        let sizes = rule.optimizer().moment_bytes(&layout(&specs, &offsets));
        let moments = sizes.iter().map(|&bytes| gpu.buffer("moment", bytes)).collect();
        let mut run = Self {
            gpu,
            rule,
            settings,
            verdict,
            offsets,
            state: wide_state(&judge.state(gpu)),
            judge,
            update: Vec::new(),
            weight,
            moments,
            steps: vec![0; specs.len()],
            weights: weights.iter().map(|w| wide(w)).collect(),
            memories: specs.iter().map(|spec| Memory::new(&spec.shape)).collect(),
            specs,
        };
        let update = run.record(|optimizer, recorder, segment| {
            optimizer.record(recorder, segment);
            true
        });
        run.update = update.expect("recorded");
        run
    }

    /// One step on both sides; gradients are dense, by tensor, and unscaled.
    pub fn step(&mut self, gradients: &[Vec<f32>]) {
        let scaled: Vec<Vec<f32>> =
            gradients.iter().map(|g| g.iter().map(|g| g * 1024.0).collect()).collect();
        let padded = self.specs.iter().zip(&scaled).filter(|(_, g)| !g.is_empty());
        let flat: Vec<f32> = padded.flat_map(|(spec, g)| spec.shape.pad(g)).collect();
        self.judge.set_gradient(self.gpu, &flat);
        self.judge.run(self.gpu);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.encode(&mut encoder, &self.update);
        self.gpu.submit(encoder);

        let wide: Vec<_> = scaled.iter().map(|g| wide(g)).collect();
        let scan = step::gradient_scan(&wide.concat());
        self.state = step::verdict(&self.verdict, &scan, 1.0, &self.state);
        for (i, gradient) in wide.iter().enumerate() {
            if !self.state.applied {
                continue;
            }
            self.steps[i] += 1;
            let steps = self.steps[i];
            let state = State {
                applied_total: steps,
                bias_correction1: 1.0 - self.verdict.beta1.powi(steps as i32),
                bias_correction2: 1.0 - self.verdict.beta2.powi(steps as i32),
                ..self.state
            };
            self.rule.evaluate(
                &self.specs[i],
                &self.settings[i],
                &state,
                gradient,
                &mut self.weights[i],
                &mut self.memories[i],
            );
        }
    }

    /// One vector.
    pub fn vector(gpu: &'a Gpu, rule: Rule, verdict: VerdictSettings, weights: &[f32]) -> Self {
        let specs = specs(&[("vector", &[weights.len()])]);
        Self::new(gpu, rule, verdict, specs, &[weights.to_vec()])
    }

    /// The weights of the first tensor.
    pub fn weights(&self) -> Vec<f32> {
        let shape = &self.specs[0].shape;
        unpad(&read(self.gpu, &self.weight)[..4 * shape.quads()], shape.cols())
    }

    /// The share of each tensor whose second moment is below eps, where the rule has one.
    pub fn eps_shares(&self) -> Option<Vec<f32>> {
        let shares = self.gpu.buffer("shares", 4 * self.specs.len() as u64);
        let dispatches = self.record(|optimizer, recorder, segment| {
            optimizer.record_eps_shares(recorder, segment, &shares)
        })?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.encode(&mut encoder, &dispatches);
        self.gpu.submit(encoder);
        Some(read(self.gpu, &shares)[..self.specs.len()].to_vec())
    }

    /// What `record` records over the buffers of the run, if it is true.
    fn record(
        &self,
        record: impl FnOnce(&dyn Optimizer, &mut Recorder<'_>, &Segment<'_>) -> bool,
    ) -> Option<Vec<Dispatch>> {
        let input = self.gpu.upload("input", &[StepInput::default()]);
        let buffers = StepBuffers { input, state: self.judge.state.clone() };
        let mut recorder = Recorder::new(self.gpu, &buffers);
        let layout = layout(&self.specs, &self.offsets);
        let segment = Segment {
            chunks: &self.judge.chunks,
            chunk_count: self.judge.chunk_count,
            tensors: &self.judge.tensors,
            gradient: &self.judge.gradient,
            weight: &self.weight,
            moments: &self.moments,
            layout: &layout,
        };
        record(self.rule.optimizer(), &mut recorder, &segment).then(|| recorder.take())
    }

    /// Asks for the memory of a tensor to be emptied, as a policy does.
    fn reset(&mut self, tensor: usize) {
        let mut states = self.judge.tensors(self.gpu);
        states[tensor].reset = 1;
        self.gpu.write(&self.judge.tensors, 0, bytemuck::cast_slice(&states));
        self.steps[tensor] = 0;
        self.memories[tensor] = Memory::new(&self.specs[tensor].shape);
    }

    /// Weights and all that is kept, as bits.
    fn bits(&self) -> Vec<u32> {
        let buffers = std::iter::once(&self.weight).chain(&self.moments);
        buffers.flat_map(|buffer| read(self.gpu, buffer)).map(f32::to_bits).collect()
    }

    #[track_caller]
    fn compare(&self, what: &str, tolerance: Tolerance) {
        let what = format!("{:?}, {what}", self.rule);
        let weight = read(self.gpu, &self.weight);
        for (i, spec) in self.specs.iter().enumerate() {
            if spec.shape.count() > 0 {
                let padded = &weight[self.offsets[i]..][..4 * spec.shape.quads()];
                let dense = unpad(padded, spec.shape.cols());
                assert_close(
                    &format!("{what}, {}", spec.name),
                    &dense,
                    &self.weights[i],
                    tolerance,
                );
            }
        }
        let names = self.rule.optimizer().moments();
        let kept = self.rule.kept(&self.specs, &self.memories);
        for ((name, buffer), expected) in names.iter().zip(&self.moments).zip(kept) {
            let found = read(self.gpu, buffer);
            let (found, rest) = found.split_at(expected.len());
            assert_close(&format!("{what}, {name}"), found, &expected, tolerance);
            assert!(rest.iter().all(|x| x.to_bits() == 0), "{what}, {name}: beyond the end");
        }
    }
}

const HUNDRED_STEPS: Tolerance = Tolerance {
    absolute: 6e-6,
    relative: 1e-6,
    because: "100 steps of size 0.01, each rounding a weight near 1 and a step of a few dozen \
              operations",
};

fn rates() -> Vec<f64> {
    (0..100u32).map(|t| f64::from(0.01 * (1.0 - t as f32 / 200.0))).collect()
}

/// Against f64: some steps clipped by norm, and 10 clipped otherwise or not at all.
fn check_steps(gpu: &Gpu, rule: Rule, steps: u64) {
    for (steps, verdict) in [
        (steps, clip(Norm::L2, 20.0)),
        (10, plain()),
        (10, clip(Norm::Max, 0.5)),
        (10, VerdictSettings { clip_value: 0.25, ..clip(Norm::L2, 40.0) }),
    ] {
        let what = format!("{:?} {}", verdict.norm, verdict.clip_value);
        let verdict = VerdictSettings { learning_rates: rates(), ..verdict };
        let specs = specs(&TENSORS);
        let weights = drawn(&specs, 1);
        let mut run = Run::new(gpu, rule, verdict, specs, &weights);
        for t in 0..steps {
            run.step(&drawn(&run.specs, 100 + 20 * t));
            if t == 0 || t == 9 {
                run.compare(&format!("{what}, step {t}"), HUNDRED_STEPS);
            }
        }
        run.compare(&what, HUNDRED_STEPS);
    }
}

fn small(gpu: &Gpu, rule: Rule) -> Run<'_> {
    let verdict = VerdictSettings { learning_rates: rates(), ..clip(Norm::L2, 20.0) };
    let specs = specs(&TENSORS);
    let weights = drawn(&specs, 1);
    Run::new(gpu, rule, verdict, specs, &weights)
}

/// A bad step changes nothing, and the good step after it is the good step alone.
fn check_skip(gpu: &Gpu, rule: Rule) {
    let (mut skipping, mut control) = (small(gpu, rule), small(gpu, rule));
    let mut places = (0..TENSORS.len()).filter(|&i| TENSORS[i].1.iter().product::<usize>() > 0);
    for t in 0..3 {
        let before = skipping.bits();
        for bits in [0x7fc0_0000u32, 0x7f80_0001, 0xff80_0000] {
            let mut bad = drawn(&skipping.specs, 500 + 20 * t);
            let tensor = places.next().expect("nine tensors that are not empty");
            let last = bad[tensor].len() - 1;
            bad[tensor][last] = f32::from_bits(bits);
            skipping.step(&bad);
            assert!(skipping.bits() == before, "{rule:?}: step {t}, {bits:#x} in {tensor}");
        }
        let good = drawn(&skipping.specs, 600 + 20 * t);
        skipping.step(&good);
        control.step(&good);
        assert!(skipping.bits() != before, "{rule:?}: step {t} changed nothing");
        assert!(skipping.bits() == control.bits(), "{rule:?}: step {t}");
    }
}

/// At a tensor's first step it does not matter what its memory holds.
fn check_empty_memory(gpu: &Gpu, rule: Rule) {
    let (mut dirty, mut clean) = (small(gpu, rule), small(gpu, rule));
    for buffer in &dirty.moments {
        let garbage = vec![0x7fc0_0000u32; buffer.size() as usize / 4];
        gpu.write(buffer, 0, bytemuck::cast_slice(&garbage));
    }
    for t in 0..2 {
        let gradient = drawn(&dirty.specs, 700 + 20 * t);
        dirty.step(&gradient);
        clean.step(&gradient);
    }
    // What belongs to no tensor keeps its garbage.
    let pairs = dirty.bits().into_iter().zip(clean.bits());
    let differing: Vec<_> = pairs.filter(|(a, b)| a != b).collect();
    assert!(differing.iter().all(|&pair| pair == (0x7fc0_0000, 0)), "{rule:?}: {differing:x?}");
    assert!(differing.len() < 256, "{rule:?}: {} words", differing.len());

    let mut run = small(gpu, rule);
    for t in 0..6 {
        if t == 3 {
            [1, 2, 5, 8].into_iter().for_each(|tensor| run.reset(tensor));
        }
        run.step(&drawn(&run.specs, 800 + 20 * t));
    }
    run.compare("after a reset", HUNDRED_STEPS);
}

/// Gradients of zero with nothing kept do nothing: no NaN from 0 / 0.
fn check_zeros(gpu: &Gpu, rule: Rule) {
    let mut run = small(gpu, rule.undecayed());
    let before = run.bits();
    let zeros: Vec<_> = run.weights.iter().map(|w| vec![0.0; w.len()]).collect();
    run.step(&zeros);
    run.step(&zeros);
    assert_eq!(run.bits(), before, "{rule:?}");
}

/// Without a clip gradients near the ends of f32 give finite steps, and the right ones.
fn check_extremes(gpu: &Gpu, rule: Rule) {
    let tensors: [(&str, &[usize]); 3] =
        [("b", &[8]), ("a.weight", &[2, 8]), ("c.weight", &[9, 3])];
    for scale in [1e30, 1e18, 1e-12] {
        let specs = specs(&tensors);
        let weights = drawn(&specs, 1);
        let mut run = Run::new(
            gpu,
            rule,
            VerdictSettings { learning_rates: vec![0.01], ..plain() },
            specs,
            &weights,
        );
        let mut gradient = drawn(&run.specs, 2);
        gradient.iter_mut().flatten().for_each(|g| *g *= scale);
        run.step(&gradient);
        let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6, because: "some roundings" };
        let what = format!("{rule:?}, gradients of {scale:e}");
        let weight = read(gpu, &run.weight);
        for (i, spec) in run.specs.iter().enumerate() {
            let padded = &weight[run.offsets[i]..][..4 * spec.shape.quads()];
            let dense = unpad(padded, spec.shape.cols());
            assert_close(&what, &dense, &run.weights[i], tolerance);
        }
        let kept = run.moments.iter().flat_map(|buffer| read(gpu, buffer));
        assert!(kept.into_iter().all(f32::is_finite), "{what}");
        for _ in 0..3 {
            run.step(&gradient);
        }
        let all = std::iter::once(&run.weight).chain(&run.moments);
        assert!(all.flat_map(|buffer| read(gpu, buffer)).all(f32::is_finite), "{what}");
    }
}

/// Ten steps at one learning rate.
pub fn check_constant_rate(gpu: &Gpu, rule: Rule, rate: f64) {
    let verdict = VerdictSettings { learning_rates: vec![rate], ..clip(Norm::L2, 20.0) };
    let specs = specs(&TENSORS);
    let weights = drawn(&specs, 1);
    let mut run = Run::new(gpu, rule, verdict, specs, &weights);
    for t in 0..10 {
        run.step(&drawn(&run.specs, 100 + 20 * t));
    }
    run.compare("at one rate", HUNDRED_STEPS);
}

/// Many short tensors, some of them empty.
pub fn check_many_tensors(gpu: &Gpu, rule: Rule, count: usize) {
    let dims = (0..count).map(|i| if i % 3 == 0 { vec![i % 10] } else { vec![2, 1 + i % 5] });
    let dims: Vec<Vec<usize>> = dims.collect();
    let tensors: Vec<_> = dims.iter().map(|dims| ("w", &dims[..])).collect();
    let specs = specs(&tensors);
    let weights = drawn(&specs, 1);
    let verdict = VerdictSettings { learning_rates: vec![0.01], ..clip(Norm::L2, 1.0) };
    let mut run = Run::new(gpu, rule, verdict, specs, &weights);
    let gradient: Vec<Vec<_>> =
        weights.iter().map(|w| w.iter().map(|w| w * 3.0).collect()).collect();
    run.step(&gradient);
    run.compare(&format!("{count} tensors"), HUNDRED_STEPS);
}

/// All of the above but many tensors.
pub fn check(gpu: &Gpu, rule: Rule) {
    check_steps(gpu, rule, 100);
    check_skip(gpu, rule);
    check_empty_memory(gpu, rule);
    check_zeros(gpu, rule);
    check_extremes(gpu, rule);
}

/// Steps alone, for an option of a rule that was checked.
pub fn check_option(gpu: &Gpu, rule: Rule) {
    check_steps(gpu, rule, 20);
    check_skip(gpu, rule);
}
