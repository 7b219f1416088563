//! The optimizer family as plain f64 loops, over one tensor: rules in one frame, as their kernels
//! are. Nothing changes in a skipped step.

mod adafactor;
mod adam;
mod compact;
mod momentum;
mod muon;
mod passes;

pub use adafactor::*;
pub use adam::*;
pub use compact::*;
pub use momentum::*;
pub use muon::*;
pub use passes::*;

use super::step::State;

/// One element, as a rule sees it.
#[derive(Clone, Copy)]
struct Place {
    /// The weight.
    w: f64,
    /// Its gradient, unscaled and clipped.
    g: f64,
    learning_rate: f64,
}

/// The frame of every rule: adds to each weight what `advance` gives for it and what is kept of it.
fn update<M>(
    learning_rate_factor: f64,
    state: &State,
    gradient: &[f64],
    weight: &mut [f64],
    kept: impl IntoIterator<Item = M>,
    advance: impl Fn(Place, M) -> f64,
) {
    if !state.applied {
        return;
    }
    let learning_rate = state.learning_rate * learning_rate_factor;
    for ((&gradient, w), kept) in gradient.iter().zip(weight).zip(kept) {
        *w += advance(Place { w: *w, g: clipped(gradient, state), learning_rate }, kept);
    }
}

/// Unscaled, clipped by norm, then by value.
fn clipped(gradient: f64, state: &State) -> f64 {
    (gradient * state.gradient_scale).clamp(-state.clip_value, state.clip_value)
}

fn agrees(a: f64, b: f64) -> bool {
    (a > 0.0 && b > 0.0) || (a < 0.0 && b < 0.0)
}

/// What decay takes from a weight that is about to move by `update`.
fn shrink(decay: f64, w: f64, update: f64, cautious: bool) -> f64 {
    if cautious && !agrees(update, w) { 0.0 } else { decay * w }
}
