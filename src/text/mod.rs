//! Text in and out of real models: tokenizers, chat templates, and texts to learn from. Needs the
//! feature `text`.
//!
//! ```no_run
//! use evenkeel::hugging_face::Folder;
//! use evenkeel::text::{ChatOptions, Conversation, Examples, Supervision, Tokenizer};
//!
//! # #[cfg(not(target_arch = "wasm32"))]
//! # fn read() -> evenkeel::Result<()> {
//! let tokenizer = Tokenizer::open("SmolLM2-135M-Instruct")?;
//! tokenizer.check(&Folder::open("SmolLM2-135M-Instruct")?.config().gpt)?;
//!
//! // A prompt for a chat, and the answer as it comes.
//! let chat = Conversation::new().with("user", "What is a keel?");
//! let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
//! let prompt = tokenizer.encode_chat(&chat, &options)?;
//! let mut stream = tokenizer.decode_stream(true);
//! # let generated = prompt;
//! for id in generated {
//!     print!("{}", stream.push(id)?);
//! }
//! println!("{}", stream.finish()?);
//!
//! // Conversations to learn from: ids, and what each position is to predict.
//! let examples = Examples::read("chats.jsonl")?;
//! let supervision = Supervision { context: Some(2048), ..Supervision::default() };
//! let (samples, summary) = supervision.encode_all(&tokenizer, &examples)?;
//! println!("{summary}");
//! let (tokens, targets) = (samples[0].inputs(), samples[0].targets());
//! # let _ = (tokens, targets);
//! # Ok(())
//! # }
//! ```
//!
//! | file | what is taken of it |
//! |---|---|
//! | `tokenizer.json` | everything but truncation and padding |
//! | `tokenizer_config.json` | special tokens, `added_tokens_decoder`, `chat_template` |
//! | `special_tokens_map.json` | special tokens that the former does not name |
//! | `generation_config.json`, else `config.json` | ids that end a generation |
//! | `chat_template.jinja`, `additional_chat_templates/*.jinja` | chat templates, before the former's |
//!
//! A GGUF file describes its tokenizer itself: [`Tokenizer::from_gguf`] and [`Tokenizer::to_gguf`].
//!
//! Ids, texts and masks are those of Hugging Face's tokenizers and transformers (5). What is apart:
//! [`Tokenizer::decode`] never tidies spaces (`clean_up_tokenization_spaces`), and `strftime_now`
//! takes UTC or [`ChatOptions::now`].

mod conversation;
mod examples;
mod gguf;
mod gguf_out;
mod load;
mod sample;
mod special;
mod stop;
mod stream;
mod supervision;
mod template;
mod tokenizer;
#[cfg(not(target_arch = "wasm32"))]
pub mod vocabulary;

pub use conversation::{Conversation, Message};
pub use examples::{Example, Examples, Form};
pub use sample::{Sample, Summary, Truncated};
pub use special::SpecialTokens;
pub use stop::StopTexts;
pub use stream::DecodeStream;
pub use supervision::{Completions, LossOn, Supervision};
pub use template::{ChatOptions, ChatTemplate};
pub use tokenizer::Tokenizer;
