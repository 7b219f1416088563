//! evenkeel
#[cfg(feature = "contract")]
pub mod contract;
pub mod error;
pub mod gpu;
pub mod kernel;
pub mod kernels;
pub mod reference;
pub mod step;

pub use error::{Error, Result};
pub use gpu::Gpu;
