//! A model in another form.

use std::path::PathBuf;

use evenkeel::run::Ending;
use evenkeel::{Error, Precision, Result};

use crate::loaded::Opened;
use crate::saving::{Target, precision};

/// A folder or a GGUF file in, a folder of transformers' form out, with the tokenizer.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file
    model: PathBuf,
    /// The folder of the new model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of all weights: f32, f16 or bf16; if not given the types of the folder, or f32 where the
    /// model is a GGUF file
    #[arg(long, value_name = "TYPE", value_parser = precision)]
    dtype: Option<Precision>,
    /// A folder with another tokenizer than the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Not there: says what to do instead
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "")]
    quantize: Option<String>,
    /// Write over the files of a folder that is there
    #[arg(long)]
    overwrite: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    let Options { model, out, dtype, tokenizer, quantize, overwrite } = &options;
    if quantize.is_some() {
        return Err(Error::Unsupported {
            what: "writing a model in blocks of 4 or 8 bits".to_owned(),
            instead: "generate, chat, evaluate and lora quantize as they load (their --quantize); \
                      for a file, give the folder that is written without it to llama.cpp's \
                      convert_hf_to_gguf.py and llama-quantize"
                .to_owned(),
        });
    }
    let opened = Opened::new(model, tokenizer.as_deref(), None, None)?;
    let target = Target { path: out, option: "--out", overwrite: *overwrite, precision: *dtype };
    target.prepare(&[model])?;
    target.write(&opened, opened.source.export()).await
}
