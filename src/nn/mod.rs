//! Layers and models, composed from operations; no GPU code here.
//!
//! A layer is a small struct of settings. Its `forward` takes the graph, a name and a value, and
//! makes its parameters under that name, so that the dotted names are those PyTorch would give:
//! `blocks.0.attention.qkv.weight`. Models compose layers and implement
//! [`Model`](crate::train::Model).

mod attention;
mod base_format;
mod batch_norm;
mod block;
mod classifier;
mod embedding;
mod feed_forward;
mod fitting;
mod generate;
mod gpt;
mod gpt_config;
mod linear;
pub mod lora;
mod norm;
mod qk_clip;
mod rotary;

pub use attention::CausalSelfAttention;
pub use batch_norm::BatchNorm;
pub use block::{Block, Residual};
pub use classifier::{Classifier, MlpClassifier};
pub use embedding::{Dropout, Embedding};
pub use feed_forward::{FeedForward, GatedMlp, Mlp};
pub use fitting::{Change, Suggestion};
pub use generate::{
    Generation, GenerationSpeed, Generator, GeneratorSettings, PausedGeneration, Sampling,
};
pub use gpt::{Gpt, LanguageModel};
pub use gpt_config::{FeedForwardKind, GptConfig, LayerKind, Positions};
pub use linear::Linear;
pub use lora::{LinearAdapter, Lora, Targets};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use qk_clip::{ClippedAttention, QkClip};
pub use rotary::{Rotary, RotaryScaling};

pub use crate::graph::ops::QkNorm;
pub use crate::init::{self, Init};
