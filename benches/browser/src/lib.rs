//! evenkeel's side of the benchmark in a browser: two small models, trained by the same program in
//! a page and natively. `problem.js` states the same models for the libraries compared with.

pub mod problem;
mod run;
#[cfg(target_arch = "wasm32")]
mod web;

pub use run::Run;
