//! The model that options name: its files first, then its weights on a device.

use std::path::{Path, PathBuf};

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::Adapter;
use evenkeel::nn::{Gpt, GptConfig};
use evenkeel::plan::Parameters;
use evenkeel::run::{Source, block_format};
use evenkeel::{BlockFormat, Error, Gpu, Precision, Result};

/// Which model, and what is done to it as it is read.
#[derive(Debug, clap::Args)]
pub struct ModelOptions {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A folder with an adapter of PEFT's form, such as `evenkeel lora` writes
    #[arg(long, value_name = "DIR")]
    adapter_path: Option<PathBuf>,
    /// A folder with another tokenizer than the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Keep the weights on the device in blocks: q8_0, q4_0 or q4_1
    #[arg(long, value_name = "FORMAT", value_parser = block_format)]
    quantize: Option<BlockFormat>,
}

/// Files that belong together, of which no weights were read.
#[derive(Debug)]
pub struct Opened {
    pub source: Source,
    pub adapter: Option<Adapter>,
    pub gpt: Gpt,
}

/// A model on a device.
#[derive(Debug)]
pub struct Loaded {
    pub gpu: Gpu,
    pub parameters: Parameters,
}

impl ModelOptions {
    /// Opens the files, and checks that they fit each other.
    pub fn open(&self) -> Result<Opened> {
        let Self { model, adapter_path, tokenizer, quantize } = self;
        Opened::new(model, tokenizer.as_deref(), adapter_path.as_deref(), *quantize)
    }
}

impl Opened {
    pub fn new(
        model: &Path,
        tokenizer: Option<&Path>,
        adapter: Option<&Path>,
        base_format: Option<BlockFormat>,
    ) -> Result<Self> {
        let source = Source::open(model, tokenizer)?;
        let adapter = adapter.map(|folder| open_adapter(folder, &source)).transpose()?;
        let base = source.config().gpt.clone();
        let config = adapter.as_ref().map_or(base, Adapter::gpt);
        let gpt = Gpt::new(GptConfig { base_format, ..config })?;
        Ok(Self { source, adapter, gpt })
    }

    /// Room for the weights on the device that the environment selects.
    pub async fn allocate(&self) -> Result<Loaded> {
        let gpu = crate::device::open().await?;
        let mut graph = Graph::in_precision(Phase::Evaluate, Precision::F32);
        let tokens = graph.tokens("tokens", [1, 1], self.gpt.config().vocabulary);
        self.gpt.logits(&mut graph, tokens);
        let parameters = Parameters::new(&gpu, &graph, 0).await?;
        Ok(Loaded { gpu, parameters })
    }

    /// Reads the weights into that room.
    pub async fn read(&self, loaded: &Loaded) -> Result<()> {
        loaded.parameters.load(&mut self.source.reader()).await?;
        match &self.adapter {
            Some(adapter) => loaded.parameters.load(&mut adapter.reader()).await,
            None => Ok(()),
        }
    }

    /// The model with its weights on a device.
    pub async fn load(&self) -> Result<Loaded> {
        let loaded = self.allocate().await?;
        self.read(&loaded).await?;
        Ok(loaded)
    }
}

fn open_adapter(folder: &Path, source: &Source) -> Result<Adapter> {
    if !folder.is_dir() {
        let reason = "there is no folder with this name; an adapter is one with adapter_config.json \
                      and adapter_model.safetensors, or adapters.safetensors of mlx-lm";
        return Err(Error::File { path: folder.to_owned(), reason: reason.to_owned() });
    }
    Adapter::open_any(folder, source.config())
}
