//! Folders of models as Hugging Face's transformers has them: `config.json` and
//! `model.safetensors`, in and out.
//!
//! ```no_run
//! use evenkeel::hugging_face::Folder;
//! use evenkeel::nn::{Gpt, LanguageModel};
//! use evenkeel::train::Trainer;
//!
//! # #[cfg(not(target_arch = "wasm32"))]
//! # async fn tune(gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
//! let folder = Folder::open("SmolLM2-135M")?;
//! let gpt = Gpt::new(folder.config().gpt.clone())?;
//! let model = LanguageModel { gpt, batch: 1, time: 512 };
//! let mut trainer = Trainer::builder(model).build(gpu).await?;
//! let show = |at: &evenkeel::hugging_face::Progress<'_>| println!("{} / {}", at.bytes, at.total);
//! trainer.load_weights(&mut folder.reader(show)).await?;
//! // ... steps ...
//! folder.export().save(trainer.parameters(), "tuned").await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Family`] lists what is known. A `config.json` is read strictly: what asks for a function that
//! is not here, or is not known, is an error that names the field and its value.
//!
//! | tensors | read | written |
//! |---|---|---|
//! | in F32, F16 or BF16 | exactly, as f32 | as they came, or in one type for all |
//! | of the layers | renamed, joined, transposed (GPT-2) by one table | by the same table |
//! | the head of a tied model | the embedding; a copy must be the same | once, as the embedding |
//! | rotary frequencies and causal masks | passed over: they follow from the configuration | not |
//! | anything else, or NaN and Inf among the numbers | an error that names all of them | |
//!
//! `pad_token_id` names a token like all others. transformers gives the row of its embedding no
//! gradient where it is read (`padding_idx`; not GPT-2's). Behind a text, with
//! [`IGNORE`](crate::train::IGNORE) as targets, it gets none here either: nothing that counts comes
//! after it.
//!
//! Files are read tensor by tensor, at most some megabytes at a time, and not mapped: what another
//! program does to a mapped file meanwhile is undefined behaviour. In pages, which have no files,
//! [`Folder::from_files`] takes their contents, and [`Folder::from_sources`] what reads them piece by
//! piece.

mod config;
mod describe;
mod export;
mod fields;
mod files;
mod folder;
mod names;
mod peft;
mod read_config;
mod reader;
#[cfg(not(target_arch = "wasm32"))]
mod tensor_file;
mod write;

use std::fmt;

pub use config::Config;
pub use export::Export;
pub use files::ReadAt;
pub use folder::Folder;
pub use names::{Tensor, TheirTensor};
pub use peft::{Adapter, AdapterExport, AdapterReader, MlxLora};
pub use reader::{Progress, Reader};
#[cfg(not(target_arch = "wasm32"))]
pub use tensor_file::{SafetensorsFile, StoredTensor};

pub(crate) use config::differences;
pub(crate) use describe::decimal;
pub(crate) use export::parameters_of;
pub(crate) use fields::Fields;
pub(crate) use files::{Source, unreadable};
pub(crate) use names::{Kept, Made, Row, misfit, tensors_by};
pub(crate) use read_config::MOST_LAYERS;
pub(crate) use reader::{Size, TensorFiles};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use write::Told;
pub(crate) use write::{Sink, Values};

use crate::error::Error;

/// Kinds of models, by the `model_type` of their configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `gpt2`
    Gpt2,
    /// `llama`: Llama 2, 3, 3.1 and 3.2, SmolLM, and many that are built alike.
    Llama,
    /// `mistral`
    Mistral,
    /// `qwen2`: Qwen 2 and 2.5.
    Qwen2,
    /// `qwen3`, those without experts.
    Qwen3,
    /// `gemma2`
    Gemma2,
    /// `gemma3_text`, and the text part of `gemma3`.
    Gemma3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Gpt2,
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
    ];

    /// The `model_type` of its configurations.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
        }
    }

    /// The class in transformers of its language models.
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    fn is_qwen(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

/// The name of the configuration in a folder.
const CONFIG: &str = "config.json";

pub(crate) fn invalid(file: &str, reason: impl Into<String>) -> Error {
    Error::ModelFile { file: file.to_owned(), reason: reason.into() }
}

/// One error of all that is wrong, if anything is.
pub(crate) fn all_or_none(file: &str, problems: Vec<String>) -> crate::Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(invalid(file, problems.join("; "))) }
}
