//! A GPT that learns in a browser tab: what the page's worker talks to.
//!
//! [`Session`] is a training run that can be steered, hurt, saved and resumed. It knows nothing of
//! browsers, so native tests use it too; `bindings` hands it to JavaScript. Everything is built
//! from the public API of `evenkeel`. Time belongs to the worker: a session takes a step when it is
//! asked to.

pub mod addition;
#[cfg(target_arch = "wasm32")]
mod bindings;
mod session;
mod settings;
mod task;

pub use evenkeel_browser_shared::{Disturbance, Disturbed};
pub use session::{LayerNorms, Session};
pub use settings::{Settings, Size};
pub use task::{Answer, Task};
