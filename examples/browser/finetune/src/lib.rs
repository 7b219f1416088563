//! Fine-tuning of a visitor's own model in a browser tab: what the page's worker talks to.
//!
//! [`Session`] opens a model and lines to learn from, trains a low-rank adapter beside the model's
//! own weights, talks with what it has become, and saves and resumes. It knows nothing of browsers,
//! so native tests use it too; `bindings` hands it to JavaScript. It is a program apart from the
//! page's own run, so that only who fine-tunes fetches tokenizers and readers of models.

#[cfg(target_arch = "wasm32")]
mod bindings;
mod chat;
mod data;
mod key;
mod model;
mod session;
mod settings;

pub use chat::{ChatSettings, Written};
pub use evenkeel_browser_shared::Disturbance;
pub use key::Key;
pub use model::ModelFiles;
pub use session::{Report, Session};
pub use settings::{Base, Modules, Settings};
