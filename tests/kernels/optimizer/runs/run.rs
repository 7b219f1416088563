//! An optimizer on the device beside its rule in f64.

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::graph::{ParameterSpec, Shape};
use evenkeel::kernels::chunks;
use evenkeel::nn::Init;
use evenkeel::record::{Recorder, StepBuffers};
use evenkeel::reference::step::{self, State, VerdictSettings};
use evenkeel::step::{StepInput, TensorSettings, TensorState};
use evenkeel::train::Optimizer;
use evenkeel::train::optimizers::{Segment, SegmentTensor};

use super::frame::{Flat, Judge, fresh, wide_state};
use super::rule::{Memory, Rule};
use super::support::{Tolerance, assert_close, read, unpad, values, wide};

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
pub fn drawn(specs: &[ParameterSpec], seed: u64) -> Vec<Vec<f32>> {
    (seed..).zip(specs).map(|(seed, spec)| values(seed, spec.shape.count())).collect()
}

/// An optimizer on the device beside its rule in f64.
pub struct Run<'a> {
    gpu: &'a Gpu,
    rule: Rule,
    pub specs: Vec<ParameterSpec>,
    settings: Vec<TensorSettings>,
    verdict: VerdictSettings,
    pub offsets: Vec<usize>,
    judge: Judge,
    pub weight: wgpu::Buffer,
    pub moments: Vec<wgpu::Buffer>,
    update: Vec<Dispatch>,
    state: State,
    steps: Vec<u32>,
    pub weights: Vec<Vec<f64>>,
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
    pub fn reset(&mut self, tensor: usize) {
        let mut states = self.judge.tensors(self.gpu);
        states[tensor].reset = 1;
        self.gpu.write(&self.judge.tensors, 0, bytemuck::cast_slice(&states));
        self.steps[tensor] = 0;
        self.memories[tensor] = Memory::new(&self.specs[tensor].shape);
    }

    /// Weights and all that is kept, as bits.
    pub fn bits(&self) -> Vec<u32> {
        let buffers = std::iter::once(&self.weight).chain(&self.moments);
        buffers.flat_map(|buffer| read(self.gpu, buffer)).map(f32::to_bits).collect()
    }

    #[track_caller]
    pub fn compare(&self, what: &str, tolerance: Tolerance) {
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
