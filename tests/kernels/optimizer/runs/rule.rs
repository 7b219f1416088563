//! Optimizers, and what they should make of weights.

use evenkeel::graph::{ParameterSpec, Shape};
use evenkeel::reference::optimizer::{
    self as reference, AdafactorSettings, AdamAtan2Settings, AdamSettings, AmsgradSettings, Factor,
    LionSettings, MuonSettings, Variance,
};
use evenkeel::reference::step::State;
use evenkeel::step::TensorSettings;
use evenkeel::train::{Adafactor, Adam, AdamAtan2, AdamW, Lion, Muon, Optimizer, StableAdamW};

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
pub struct Memory {
    moments: [Vec<f64>; 3],
    variance: Variance,
}

impl Memory {
    pub fn new(shape: &Shape) -> Self {
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
    pub fn optimizer(&self) -> &dyn Optimizer {
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
    pub fn undecayed(mut self) -> Self {
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

    pub fn evaluate(
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
    pub fn kept(&self, specs: &[ParameterSpec], memories: &[Memory]) -> Vec<Vec<f64>> {
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
