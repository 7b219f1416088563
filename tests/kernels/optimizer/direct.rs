//! The kernels of AdamW, Adam and SGD without a trainer, beside the same in f64.

use evenkeel::Gpu;
use evenkeel::kernels::*;
use evenkeel::reference::optimizer::{self as reference, AdamSettings, SgdSettings};
use evenkeel::reference::step::{self, State, VerdictSettings};
use evenkeel::step::{TensorSettings, TensorState};

use super::frame::{Flat, Judge, flatten, fresh, wide_state};
use super::support::{Tolerance, assert_close, read, wide};

#[derive(Clone, Copy)]
pub enum Method {
    Adamw(AdamSettings),
    Adam(AdamSettings),
    Sgd(SgdSettings),
}

pub const ADAM: AdamSettings = AdamSettings {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    learning_rate_factor: 1.0,
};
pub const SGD: SgdSettings = SgdSettings {
    momentum: 0.0,
    dampening: 0.0,
    nesterov: false,
    weight_decay: 0.0,
    learning_rate_factor: 1.0,
};

/// Parameters on the device beside the same in f64.
pub struct Training<'a> {
    gpu: &'a Gpu,
    method: Method,
    verdict: VerdictSettings,
    tensors: Vec<TensorSettings>,
    pub flat: Flat,
    pub judge: Judge,
    pub weight: wgpu::Buffer,
    pub m: wgpu::Buffer,
    pub v: wgpu::Buffer,
    state: State,
    pub weights: Vec<Vec<f64>>,
    moments: Vec<Vec<(f64, f64)>>,
}

impl<'a> Training<'a> {
    /// Moments start with what `stale` says, in every element that is not padding.
    pub fn new(
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
    pub fn step(&mut self, gradient: &[f32]) {
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
    pub fn bits(&self) -> Vec<Vec<u32>> {
        let buffers = [&self.weight, &self.m, &self.v];
        buffers.map(|b| read(self.gpu, b).iter().map(|x| x.to_bits()).collect()).to_vec()
    }

    #[track_caller]
    pub fn compare(&self, what: &str, tolerance: Tolerance) {
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
