//! Models in GGUF files, the form of [llama.cpp](https://github.com/ggml-org/llama.cpp), in and
//! out.
//!
//! ```no_run
//! use evenkeel::gguf::File;
//! use evenkeel::nn::{Gpt, LanguageModel};
//! use evenkeel::train::Trainer;
//!
//! # #[cfg(not(target_arch = "wasm32"))]
//! # async fn tune(gpu: &evenkeel::Gpu) -> evenkeel::Result<()> {
//! let file = File::open("smollm2-135m-instruct.gguf")?;
//! let gpt = Gpt::new(file.config().gpt.clone())?;
//! let model = LanguageModel { gpt, batch: 1, time: 512 };
//! let mut trainer = Trainer::builder(model).build(gpu).await?;
//! let show = |at: &evenkeel::gguf::Progress<'_>| println!("{} / {}", at.bytes, at.total);
//! trainer.load_weights(&mut file.reader(show)).await?;
//! if let Some(tokenizer) = file.tokenizer()? {
//!     println!("{} tokens", tokenizer.tokens.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The versions 2 and 3 of the format are read, little-endian. What is not as it should be is an
//! error with the name of what is at fault; nothing that a file says is believed before it was
//! compared with the file's length. Numbers are de-quantized to f32 by ggml's own operations, so
//! they have its bits; [`Format`] lists what is read. Where the model asks for blocks
//! ([`GptConfig::base_format`](crate::nn::GptConfig::base_format)), those of the same format stay as
//! they are, and the numbers of others are quantized anew. Of a file some megabytes are read at a time;
//! in pages, which have no files, [`File::from_bytes`] takes its contents, and [`File::from_source`] what
//! reads them piece by piece.
//!
//! The configuration is the one that a `config.json` of the model has
//! ([`hugging_face::Config`](crate::hugging_face::Config)), so
//! [`hugging_face::Export`](crate::hugging_face::Export) makes a folder of a file.
//!
//! | architecture | is read as | by what |
//! |---|---|---|
//! | `gpt2` | GPT-2 | |
//! | `llama` | Llama; Mistral, where there is a window | rows of queries and keys are put back in the order of transformers, which the converter changed; the factors of `rope_freqs.weight` become Llama 3's scaling |
//! | `qwen2`, `qwen3` | Qwen 2, 2.5 and 3 | |
//! | `gemma2`, `gemma3` | the text of Gemma 2 and 3 | 1 is subtracted from the weights of norms, which the converter added |
//!
//! [`Export`] writes such files by the same tables, in F32, F16, BF16 or blocks.
//!
//! What such a file does not say is what llama.cpp takes for it: the scale of Gemma's attention by
//! its size, its windows' period, the base of its short rotation. The head is the embedding where
//! there is no `output.weight`; where there is one, it is a head of its own, and trained as one.

mod config;
mod container;
mod cursor;
mod export;
mod file;
mod format;
mod names;
mod rope;
mod tokenizer;
mod value;

pub use crate::hugging_face::{Progress, ReadAt, Reader};
pub use container::TensorInfo;
pub use export::Export;
pub use file::File;
pub use format::Format;
pub use tokenizer::{TokenKind, Tokenizer};
pub use value::{Array, Value};
