//! An adapter becomes a part of the weights of its model.

use std::path::PathBuf;

use evenkeel::hugging_face::Adapter;
use evenkeel::run::{Ending, block_format};
use evenkeel::{BlockFormat, Error, Precision, Result};

use crate::convert::refuse_blocks;
use crate::loaded::Opened;
use crate::saving::{GgufTarget, Output, Target, is_gguf, precision, write};

/// W + s B A, of DoRA with its magnitudes, computed in f64 and rounded once. The model is written as
/// a folder of transformers' form with its tokenizer, as a GGUF file, or as both.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A folder with an adapter of PEFT's form, such as `evenkeel lora` writes
    #[arg(long, value_name = "DIR", default_value = "adapters")]
    adapter_path: PathBuf,
    /// The folder of the new model, or a file with a name that ends with .gguf
    #[arg(long, value_name = "PATH", default_value = "fused_model")]
    save_path: PathBuf,
    /// A folder with another tokenizer than the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// The type of all weights, of matrices alone in a GGUF file: f32, f16 or bf16; if not given the
    /// types of the folder, or f32 where the model is a GGUF file
    #[arg(long, value_name = "TYPE", value_parser = precision)]
    dtype: Option<Precision>,
    /// The blocks of matrices in a GGUF file: q8_0, q4_0 or q4_1
    #[arg(long, value_name = "FORMAT", value_parser = block_format, conflicts_with = "dtype")]
    quantize: Option<BlockFormat>,
    /// Write a GGUF file too, in the new folder, in f16 where neither --dtype nor --quantize is given
    #[arg(long)]
    export_gguf: bool,
    /// Its name
    #[arg(
        long,
        value_name = "NAME",
        default_value = "ggml-model-f16.gguf",
        requires = "export_gguf"
    )]
    gguf_path: PathBuf,
    /// Write over the files of a folder that is there, or over the file
    #[arg(long)]
    overwrite: bool,
}

pub async fn run(options: Options) -> Result<Ending> {
    options.check()?;
    let Options { model, adapter_path, tokenizer, .. } = &options;
    let opened = Opened::new(model, tokenizer.as_deref(), Some(adapter_path), None)?;
    let outputs = options.outputs(&opened)?;
    write(&opened, &outputs, &[model, adapter_path]).await
}

impl Options {
    /// Fails where options do not go together.
    fn check(&self) -> Result<()> {
        let is_file = is_gguf(&self.save_path);
        if !is_file && !self.export_gguf {
            refuse_blocks(self.quantize, "--save-path")?;
        }
        if is_file && self.export_gguf {
            return Err(Error::Unsupported {
                what: "--export-gguf with a --save-path that is a GGUF file itself".to_owned(),
                instead: "leave --export-gguf out, or give a folder with --save-path".to_owned(),
            });
        }
        if self.export_gguf && !is_gguf(&self.gguf_path) {
            return Err(Error::File {
                path: self.gguf_path.clone(),
                reason: "what --gguf-path names ends with .gguf, by which it is known".to_owned(),
            });
        }
        Ok(())
    }

    /// What the model is written as.
    fn outputs(&self, opened: &Opened) -> Result<Vec<Output<'_>>> {
        let Self { save_path, dtype, quantize, overwrite, .. } = self;
        let option = "--save-path";
        let lora = opened.adapter.as_ref().map(Adapter::lora);
        if is_gguf(save_path) {
            let path = save_path.clone();
            let target = GgufTarget { path, option, overwrite: *overwrite };
            return Ok(vec![target.output(opened, *dtype, *quantize, lora)?]);
        }
        let target = Target { path: save_path, option, overwrite: *overwrite };
        let mut outputs = vec![target.output(opened, *dtype, lora)];
        if self.export_gguf {
            let path = save_path.join(&self.gguf_path);
            let target = GgufTarget { path, option: "--gguf-path", overwrite: *overwrite };
            let dtype = dtype.or(Some(Precision::F16));
            outputs.push(target.output(opened, dtype, *quantize, lora)?);
        }
        Ok(outputs)
    }
}
