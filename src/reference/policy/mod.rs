//! Policies as plain loops: what each remembers, and what it makes of a step.

use std::collections::VecDeque;

mod clip;
mod snapshots;
mod spikes;

pub use clip::*;
pub use snapshots::*;
pub use spikes::*;

use crate::step::Reason;

/// A step as policies see it between norm and verdict.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Mean loss.
    pub loss: f64,
    /// Global norm of the unscaled gradients.
    pub norm: f64,
    /// Norms of the unscaled gradients of each tensor.
    pub tensor_norms: Vec<f64>,
    /// Whether a gradient is NaN or Inf.
    pub overflows: bool,
    /// Whether the step before was applied.
    pub applied_before: bool,
}

/// What policies set between norm and verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Why the step is to be skipped.
    pub veto: Reason,
    /// Bound on the norm.
    pub max_norm: f64,
    /// Factor on the learning rate.
    pub learning_rate_factor: f64,
    /// Clip coefficient of each tensor.
    pub coefficients: Vec<f64>,
    /// Tensors whose moments are to be emptied.
    pub resets: Vec<bool>,
    /// Bits of [`Event`](crate::step::Event).
    pub events: u32,
    /// What made the first policy act.
    pub event_value: f64,
    /// The tensor it was about.
    pub event_tensor: u32,
}

impl Effect {
    /// Nothing yet, for this many tensors.
    pub fn new(max_norm: f64, tensor_count: usize) -> Self {
        Self {
            veto: Reason::None,
            max_norm,
            learning_rate_factor: 1.0,
            coefficients: vec![1.0; tensor_count],
            resets: vec![false; tensor_count],
            events: 0,
            event_value: 0.0,
            event_tensor: 0,
        }
    }

    fn note(&mut self, events: u32, value: f64, tensor: u32) {
        if self.event_value == 0.0 {
            (self.event_value, self.event_tensor) = (value, tensor);
        }
        self.events |= events;
    }

    /// Lowers the bound on the norm; whether that clips the step harder.
    fn lower_max_norm(&mut self, bound: f64, norm: f64) -> bool {
        let lowers = bound < self.max_norm && norm > bound;
        self.max_norm = self.max_norm.min(bound);
        lowers
    }
}

fn push<T>(window: &mut VecDeque<T>, capacity: usize, value: T) {
    if window.len() == capacity {
        window.pop_front();
    }
    window.push_back(value);
}
