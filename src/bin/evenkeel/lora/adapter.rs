//! What was trained, as files that other programs open.

use std::path::{Path, PathBuf};

use evenkeel::hugging_face::{Adapter, AdapterExport, Export};
use evenkeel::nn::Lora;
use evenkeel::plan::Parameters;
use evenkeel::{Error, Result, file};

use super::settings::{AdapterFormat, Settings};
use super::setup::Setup;

/// Files of a tokenizer, and what generation is told, which belong to a model and are not changed.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "vocab.json",
    "tokenizer.model",
];

/// The file of mlx-lm's adapters.
const MLX_TENSORS: &str = "adapters.safetensors";
/// The file of PEFT's.
const PEFT_TENSORS: &str = "adapter_model.safetensors";

/// How it is written.
pub enum Writer {
    Adapter { export: Box<AdapterExport>, format: AdapterFormat },
    Model { export: Box<Export>, companions: Vec<PathBuf> },
}

impl Writer {
    /// # Errors
    /// Those of [`Lora::validate`], and [`Error::Unsupported`] for an adapter that mlx-lm's layout
    /// has no words for.
    pub fn new(setup: &Setup) -> Result<Self> {
        let Setup { settings, source, lora, .. } = setup;
        let Some(lora) = lora else {
            let folder = settings.model()?;
            let companions = COMPANIONS.map(|name| folder.join(name));
            let there = companions.into_iter().filter(|path| path.is_file()).collect();
            return Ok(Self::Model { export: Box::new(source.export()), companions: there });
        };
        let name = settings.model()?.to_string_lossy();
        let export = AdapterExport::new(source.config(), lora.clone())?.base_model(&name);
        if settings.adapter_format != AdapterFormat::Peft {
            evenkeel::hugging_face::MlxLora::of(lora, &source.config().gpt)?;
        }
        Ok(Self::Adapter { export: Box::new(export), format: settings.adapter_format })
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::ModelFile`], [`Error::DeviceLost`].
    pub async fn save(&self, parameters: &Parameters, folder: &Path) -> Result<()> {
        match self {
            Self::Model { export, companions } => {
                export.save(parameters, folder).await?;
                companions.iter().try_for_each(|path| copy(path, folder))
            }
            Self::Adapter { export, format } => {
                if *format != AdapterFormat::Mlx {
                    export.save(parameters, folder).await?;
                }
                let mlx = match format {
                    AdapterFormat::Peft => return Ok(()),
                    AdapterFormat::Mlx => folder.to_owned(),
                    AdapterFormat::Both => folder.join("mlx"),
                };
                make_folder(&mlx)?;
                let files = export.to_mlx_files(parameters).await?;
                // First the tensors: MLX_TENSORS is behind the configuration in order.
                let files = files.iter().rev();
                files.into_iter().try_for_each(|(name, bytes)| file::replace(mlx.join(name), bytes))
            }
        }
    }

    /// Writes what there is after so many iterations beside the last one: into a folder with that
    /// number, or in mlx-lm's layout alone into a file, as mlx-lm does. Says where.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn save_numbered(
        &self,
        parameters: &Parameters,
        folder: &Path,
        iteration: u64,
    ) -> Result<PathBuf> {
        if let Self::Adapter { export, format: AdapterFormat::Mlx } = self {
            let files = export.to_mlx_files(parameters).await?;
            let path = folder.join(format!("{iteration:07}_{MLX_TENSORS}"));
            let tensors = files.get(MLX_TENSORS).map_or(&[][..], Vec::as_slice);
            return file::replace(&path, tensors).map(|()| path);
        }
        let path = folder.join(format!("{iteration:07}"));
        self.save(parameters, &path).await.map(|()| path)
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::File {
        path: folder.to_owned(),
        reason: format!("cannot be made: {error}"),
    })
}

fn copy(path: &Path, folder: &Path) -> Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let contents = std::fs::read(path).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("cannot be read: {error}"),
    })?;
    file::replace(folder.join(name), &contents)
}

/// The adapter that a run begins with: a file in either layout, whose configuration is that of the
/// settings, or a folder with such a file.
///
/// # Errors
/// [`Error::File`] where there is none, [`Error::ModelFile`] for tensors of another adapter.
pub fn to_begin_with(settings: &Settings, setup: &Setup, lora: &Lora) -> Result<Option<Adapter>> {
    let Some(path) = &settings.resume_adapter_file else { return Ok(None) };
    let inside = [PEFT_TENSORS, MLX_TENSORS].map(|name| path.join(name));
    let in_folder = inside.into_iter().find(|file| file.is_file());
    let file = in_folder.unwrap_or_else(|| path.clone());
    let contents = std::fs::read(&file).map_err(|error| Error::File {
        path: path.clone(),
        reason: format!("the adapter to begin with cannot be read: {error}"),
    })?;
    Adapter::from_tensors(contents, lora, setup.source.config()).map(Some)
}
