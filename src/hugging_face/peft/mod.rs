//! Adapters as Hugging Face's PEFT has them: `adapter_config.json` and
//! `adapter_model.safetensors`, in and out.

mod config;
mod export;
mod folder;
mod merge;
mod mlx;
mod names;
mod reader;

pub use export::AdapterExport;
pub use folder::Adapter;
pub(super) use merge::Merge;
pub use mlx::MlxLora;
pub use reader::AdapterReader;

/// The name of the configuration in a folder.
const CONFIG: &str = "adapter_config.json";
/// The file of the tensors.
const MODEL: &str = "adapter_model.safetensors";
