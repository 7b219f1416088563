//! Optimizers behind a real scan and verdict, over many tensors, against f64 over 100 steps, and
//! what they must leave alone bit by bit.

mod adafactor;
mod compact;
mod direct;
mod muon;
mod passes;
mod plain;
mod rules;
mod runs;

use adafactor::{adafactor, adafactor_factors, adafactor_scan, adafactor_squares};
use compact::{adam_bf16, adam_blocks, adamw_bf16, adamw_blocks, lion_bf16, lion_blocks};
use evenkeel::reference::step::State;
use evenkeel::step::{APPLY, StepState, TensorState};
use evenkeel::train;
use muon::{muon, muon_momentum, muon_norm, muon_normalize, muon_polynomial};
use passes::{agreement, moment_statistics, squared_ratio, tensor_factors, weight_squares};
use plain::{adam, adamw, sgd};
use rules::{adam_atan2, adamw_packed, adamw_scaled, amsgrad, lion};

use super::step::judge as frame;
use super::support::{self, Tolerance, values};

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
    adamw_bf16,
    adam_bf16,
    lion_bf16,
    adamw_blocks,
    adam_blocks,
    lion_blocks,
}

/// Empty tensors first, in the middle and last; one element; chunk borders.
const LENGTHS: [usize; 9] = [0, 1, 5, 2048, 0, 2049, 7, 300, 0];

const BETA: f64 = 0.75;
const PARTIAL: Tolerance = Tolerance {
    absolute: 1e-12,
    relative: 3e-6,
    because: "some roundings of each term and a tree of sums",
};

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0, because: "a count" };

const ADAMW: train::AdamW = train::AdamW {
    learning_rate: 0.01,
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.1,
    amsgrad: false,
    cautious: false,
    cautious_decay: false,
};

fn tensors(seed: u64, lengths: &[usize]) -> Vec<Vec<f32>> {
    (seed..).zip(lengths).map(|(seed, &length)| values(seed, length)).collect()
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
