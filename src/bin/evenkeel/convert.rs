//! A model in another form.

use std::path::PathBuf;

use evenkeel::run::{Ending, block_format};
use evenkeel::{BlockFormat, Error, Precision, Result};

use crate::loaded::Opened;
use crate::saving::{GgufTarget, Target, is_gguf, precision, write};

/// A folder or a GGUF file in, a folder of transformers' form or a GGUF file out, with the tokenizer.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file
    model: PathBuf,
    /// The folder of the new model, or a file with a name that ends with .gguf
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// The type of all weights, of matrices alone in a GGUF file: f32, f16 or bf16; if not given the
    /// types of the folder, or f32 where the model is a GGUF file
    #[arg(long, value_name = "TYPE", value_parser = precision)]
    dtype: Option<Precision>,
    /// The blocks of matrices in a GGUF file: q8_0, q4_0 or q4_1
    #[arg(long, value_name = "FORMAT", value_parser = block_format, conflicts_with = "dtype")]
    quantize: Option<BlockFormat>,
    /// A folder with another tokenizer than the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Write over the files of a folder that is there, or over the file
    #[arg(long)]
    overwrite: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    let Options { model, out, dtype, quantize, tokenizer, overwrite } = &options;
    let (option, overwrite) = ("--out", *overwrite);
    if !is_gguf(out) {
        refuse_blocks(*quantize, option)?;
    }
    let opened = Opened::new(model, tokenizer.as_deref(), None, None)?;
    let output = if is_gguf(out) {
        let target = GgufTarget { path: out.clone(), option, overwrite };
        target.output(&opened, *dtype, *quantize, None)?
    } else {
        let target = Target { path: out, option, overwrite };
        target.output(&opened, *dtype, None)
    };
    write(&opened, &[output], &[model]).await
}

/// Fails where blocks are asked for and a folder is written.
pub fn refuse_blocks(quantize: Option<BlockFormat>, option: &str) -> Result<()> {
    let Some(format) = quantize else { return Ok(()) };
    Err(Error::Unsupported {
        what: format!("{format} in a folder: transformers' form has no blocks of ggml's"),
        instead: format!(
            "give {option} a name that ends with .gguf; generate, chat, evaluate and lora quantize a \
             folder as they load it (their --quantize)"
        ),
    })
}
