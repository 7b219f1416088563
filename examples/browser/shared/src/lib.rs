//! What the programs of the page have in common: faults on purpose, the records of a run, and
//! values of JavaScript.

mod disturbance;
mod history;
#[cfg(target_arch = "wasm32")]
pub mod js;

pub use disturbance::{Disturbance, Disturbed};
pub use history::History;
