//! An adapter becomes a part of the weights of its model.

use std::path::PathBuf;

use evenkeel::run::Ending;
use evenkeel::{Precision, Result};

use crate::loaded::Opened;
use crate::saving::{Target, precision};

/// W + s B A, of DoRA with its magnitudes, computed in f64 and rounded once. The model's folder is
/// written as transformers has it, with its tokenizer.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A folder with an adapter of PEFT's form, such as `evenkeel lora` writes
    #[arg(long, value_name = "DIR", default_value = "adapters")]
    adapter_path: PathBuf,
    /// The folder of the new model
    #[arg(long, value_name = "DIR", default_value = "fused_model")]
    save_path: PathBuf,
    /// A folder with another tokenizer than the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// The type of all weights: f32, f16 or bf16; if not given the types of the folder, or f32 where the
    /// model is a GGUF file
    #[arg(long, value_name = "TYPE", value_parser = precision)]
    dtype: Option<Precision>,
    /// Write over the files of a folder that is there
    #[arg(long)]
    overwrite: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    let Options { model, adapter_path, save_path, tokenizer, dtype, overwrite } = &options;
    let opened = Opened::new(model, tokenizer.as_deref(), Some(adapter_path), None)?;
    let target =
        Target { path: save_path, option: "--save-path", overwrite: *overwrite, precision: *dtype };
    target.prepare(&[model, adapter_path])?;
    let export = opened.source.export();
    let export = match &opened.adapter {
        Some(adapter) => export.merged(adapter.lora()),
        None => export,
    };
    target.write(&opened, export).await
}
